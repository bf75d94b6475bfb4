"""python -m engine.report: see `engine.report_command`."""

from engine.command import run_main
from engine.report_command import main

if __name__ == "__main__":
    run_main(main)
