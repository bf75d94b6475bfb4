"""python -m engine.compare: two finished runs on the same frames -> difference, interval, p."""

from collections.abc import Sequence
from pathlib import Path

from engine.command import run_main
from engine.rundir import RunDir
from engine.suggest import Parser
from engine.verbs import program


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and print how two runs differ; returns the exit code."""
    parser = Parser(
        prog=program("compare"),
        description="Compare the out-of-fold predictions of two finished runs frame by frame: the "
        "difference in mIoU and in each class's IoU (first minus second), with 95 % interval and "
        "p-value of a paired bootstrap over scenes, or blocks of neighbouring frames.",
    )
    add = parser.add_argument
    add("first", type=Path, metavar="RUN", help="run folder of engine.train")
    add("second", type=Path, metavar="RUN", help="the run it is compared with")
    add("--resamples", type=int, default=10_000, help="default: %(default)s")
    add("--seed", type=int, default=0, help="of the resampling (default: 0)")
    add("--report", type=Path, metavar="FILE", help="write a page that shows both side by side")
    dataset = "dataset folder, for its pictures of frames (default: the first run's)"
    add("--data", type=Path, metavar="FOLDER", help=dataset)
    options = parser.parse_args(arguments)
    from rich.console import Console

    from engine.report.comparison import comparison_table, difference, open_pair

    # Loads neither SciPy nor PyTorch.
    pair = open_pair(RunDir(options.first), RunDir(options.second))
    found = difference(*pair, options.resamples, options.seed)
    Console().print(comparison_table(*pair, found))
    if options.report is not None:
        from engine.report.page.write import write_comparison

        write_comparison(pair[0].run, pair[1].run, found, options.report, options.data)
        Console().print(f"written to {options.report}", highlight=False)
    return 0


if __name__ == "__main__":
    run_main(main)
