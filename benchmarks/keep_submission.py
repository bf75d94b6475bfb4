"""python -m benchmarks.keep_submission: a run's submission as one small file, kept to be scored.

The file is NumPy's .npz: `submission`, uint8 (frames, rows, columns) in order of stems, with
`commit` and `config_hash`, the code that computed it and the hash of all that it was made from
(`key` in the run's summary.json), as strings.
"""

from collections.abc import Sequence
from pathlib import Path

from engine.command import run_main
from engine.mistakes import ConfigError
from engine.suggest import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and write the file; returns the exit code."""
    parser = Parser(prog="python -m benchmarks.keep_submission", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run")
    parser.add_argument("file", type=Path, metavar="FILE", help="the .npz to write")
    options = parser.parse_args(arguments)
    keep(options.run, options.file)
    return 0


def keep(run_folder: Path, file: Path) -> None:
    """Write a finished run's submission into `file`.

    Raises:
        ConfigError: the run has no summary or no submission, or came from no checkout.
        ValueError: a file is damaged.
    """
    import numpy as np

    from engine.report.summary import Summary
    from engine.rundir import RunDir
    from engine.runtime.recorded import Environment
    from engine.whole import whole_file

    run = RunDir(run_folder)
    for needed in (run.summary, run.submission, run.environment):
        if not needed.is_file():
            raise ConfigError(f"{needed} is missing: finish the run first, with test frames")
    environment = Environment.read(run.environment)
    if environment.commit is None:
        raise ConfigError(f"{run.environment} names no commit: train from a checkout of the code")
    labels_NHW = np.load(run.submission, mmap_mode="r", allow_pickle=False)
    with whole_file(file) as partial, partial.open("wb") as opened:
        np.savez_compressed(
            opened,
            submission=labels_NHW,
            commit=environment.commit,
            config_hash=Summary.read(run.summary).key,
        )
    print(f"{file}: {' x '.join(map(str, labels_NHW.shape))} of commit {environment.commit}")


if __name__ == "__main__":
    run_main(main)
