"""python -m engine.sweep: see `engine.sweep.command`."""

from engine.command import run_main
from engine.sweep.command import main

if __name__ == "__main__":
    run_main(main)
