"""python -m roomsmith VERB ...: the same as the console command `roomsmith`."""

from engine.verbs import run

if __name__ == "__main__":
    run()
