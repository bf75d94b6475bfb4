"""python -m engine VERB ...: the commands by name; without a verb, their list."""

from engine.verbs import run

if __name__ == "__main__":
    run()
