"""How far a command of a plan got, read from run folders; loads no PyTorch.

A fold counts as trained by its lines, one an epoch. Killed between the last line and the state that
follows it, it lacks a few steps more, which whoever finishes the run trains.
"""

from contextlib import suppress
from functools import cache
from pathlib import Path

from engine import epochs
from engine.config import TrainingConfig
from engine.damage import DamageError
from engine.mistakes import ConfigError
from engine.rundir import RunDir, load_run
from engine.sweep.driver import State
from engine.sweep.plan import Command


def state_of(command: Command) -> State:
    """How far a command got: a fold by its epochs, a run or blend by its results, a page by itself.

    What cannot be read is not done: the command itself tells what is wrong with it.
    """
    if command.leaves is not None:
        return State(_is_current(command.leaves, command))
    if command.run is None:
        return State(done=False)
    run = RunDir(command.run)
    if command.fold is not None:
        done, of = epochs_of(run, command.fold), epochs_to_train(run, command.fold)
        return State(of is not None and done >= of and run.best(command.fold).exists(), done)
    needed = [run.summary, run.atlas, run.blend if command.argv[0] == "blend" else run.parity]
    # A lease that is still there is of who works on it, or died before the end.
    is_closed = run.seal.exists() or not run.results.path.exists()
    return State(is_closed and all(path.exists() for path in needed))


def epochs_of(run: RunDir, fold: int) -> int:
    """Epochs of a fold that have a line."""
    with suppress(OSError):
        return epochs.epochs_of(run, fold)
    return 0


def epochs_to_train(run: RunDir, fold: int) -> int | None:
    """Lines that a fold has when it is trained, one at least; None where no run is there."""
    if (training := training_of(run)) is None:
        return None
    with suppress(OSError):
        return max(1, epochs.last_epoch(run, fold, training))
    return max(1, training.epochs)


def training_of(run: RunDir) -> TrainingConfig | None:
    """How a run is trained; None where none is there."""
    with suppress(OSError, ConfigError, DamageError):
        return _training(run, run.config.stat().st_mtime_ns)
    return None


@cache
def _training(run: RunDir, _written_ns: int) -> TrainingConfig:
    return load_run(run).training


def _is_current(page: Path, command: Command) -> bool:
    """Whether a page is there, and no run that it tells of was finished after it was written."""
    try:
        written_ns = page.stat().st_mtime_ns
    except OSError:
        return False
    summaries = (RunDir(Path(word)).summary for word in command.argv[1:])
    return all(path.stat().st_mtime_ns <= written_ns for path in summaries if path.exists())
