"""python -m engine.export: see `engine.export.command`."""

from engine.command import run_main
from engine.export.command import main

if __name__ == "__main__":
    run_main(main)
