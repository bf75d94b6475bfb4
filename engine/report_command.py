"""python -m engine.report: run folders -> report.html; of several runs a leaderboard."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from engine.command import run_main
from engine.mistakes import ConfigError
from engine.rundir import RunDir
from engine.suggest import Parser
from engine.verbs import program

# As a command the module is `__main__`, whose messages nobody shows.
_log = logging.getLogger("engine.report")

LEADERBOARD = Path("leaderboard.html")
"""Where the table of several runs goes, unless --out says otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and write the pages; returns the exit code."""
    parser = Parser(
        prog=program("report"),
        description="Write the report.html of a finished run or blend again, from the files of its "
        "folder. Of several runs: one page that ranks them, with links to their own, which are "
        "made where they are missing.",
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="folders of engine.train, engine.blend")
    where = f"the file (default: report.html in RUN; of several runs {LEADERBOARD})"
    add("--out", type=Path, metavar="FILE", help=where)
    dataset = "dataset folder, for pictures of frames (default: the one that the config names)"
    add("--data", type=Path, metavar="FOLDER", help=dataset)
    options = parser.parse_args(arguments)
    if options.data is not None and not options.data.is_dir():
        raise ConfigError(f"--data {options.data}: there is no such folder")
    if options.out is not None and options.out.is_dir():
        raise ConfigError(f"--out {options.out} is a folder; name a file, such as page.html")
    write(options.runs, options.out, options.data)
    return 0


def write(roots: Sequence[Path], out: Path | None, data: Path | None) -> None:
    """Write the page of one run, or the leaderboard of several, to `out`; raises as `main`.

    With a page that goes into its run, `metrics.csv` is written anew, where the folder can be.
    """
    from engine.report.page.write import write_report
    from engine.training.curves import write_curves

    def renew(run: RunDir) -> None:
        if run.config.is_file() and os.access(run.root, os.W_OK):
            write_curves(run)
        _log.info("%s is written", write_report(run, data))

    runs = [RunDir(root) for root in roots]
    if len(runs) == 1 and out is None:
        renew(runs[0])
        return
    if len(runs) == 1:
        _log.info("%s is written", write_report(runs[0], data, out))
        return
    from engine.report.page.leaderboard import leaderboard
    from engine.whole import write_text

    for run in runs:
        if not run.report.exists():
            renew(run)
    file = out or LEADERBOARD
    write_text(file, leaderboard(runs, file))
    _log.info("%s ranks %d runs", file, len(runs))


if __name__ == "__main__":
    run_main(main)
