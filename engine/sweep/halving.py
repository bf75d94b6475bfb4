"""Poor runs are stopped early: successive halving on the validation curve of their first fold.

Each run trains its first fold to a rung, `first` epochs and then each time `factor` times as many.
There its mIoU (one view, validation frames) is compared with what other runs had at that rung so
far: only one within the best of `factor` goes on. Who passes all rungs is trained and finished like
any run; who is stopped stays where it is, and a sweep without halving would go on with it.

The first fold alone decides: to wait for all would cost as many times more before anything is
known, and differences between settings that are worth a search show on one. It is ASHA (Li et al.,
2020), and Ray Tune's own decides: its scheduler asks of a trial no more than a name, so it judges
commands that anybody runs. Nothing is pickled, and of Tune's storage nothing is used: decisions
stand in `halving.json` of the sweep's folder, in the order in which they were made, and whoever
goes on repeats them.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.mistakes import ConfigError, to_install
from engine.rundir import Record, RunDir
from engine.sweep.done import epochs_of, epochs_to_train, state_of
from engine.sweep.driver import State
from engine.sweep.plan import Command
from engine.sweep.runs import Run
from engine.sweep.sweep_file import SweepFile

_log = logging.getLogger(__name__)

FILE = "halving.json"

GOES_ON, STOPS = "CONTINUE", "STOP"
"""As Tune's schedulers say it."""


class Trial(NamedTuple):
    """What a scheduler of Ray Tune asks of a trial."""

    trial_id: str


class Scheduler(Protocol):
    """What is used of `ray.tune.schedulers.AsyncHyperBandScheduler`."""

    def on_trial_add(self, tune_controller: None, trial: Trial) -> None:
        """Take note of a run."""

    def on_trial_result(self, tune_controller: None, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a run goes on after so many epochs."""


class Decision(Record):
    """What became of a run at a rung."""

    run: str
    epochs: int
    miou: float
    goes_on: bool


class Decisions(Record):
    """`halving.json`: in the order in which they were made."""

    first: int
    factor: int
    decisions: tuple[Decision, ...] = ()


def rungs(first: int, factor: int, epochs: int) -> list[int]:
    """The epochs after which a run of so many is judged; the last one needs no judgement."""
    found = []
    while first < epochs:
        found.append(first)
        first *= factor
    return found


def rung_name(run: str, epochs: int) -> str:
    """What a plan calls the training of a run's first fold to a rung."""
    return f"{run}/rung{epochs}"


class Halving:
    """Decides which runs go on, and tells a driver what is done.

    Args:
        root: the sweep's folder, which holds the runs'.
        first: epochs of the first rung.
        factor: of the runs at a rung one in so many goes on.
        epochs: of the longest run.
        scheduler: what decides; Ray Tune's unless a test brings another.
    """

    def __init__(
        self,
        root: Path,
        first: int,
        factor: int,
        epochs: int,
        scheduler: Scheduler | None = None,
    ) -> None:
        self._root, self._first, self._factor = root, first, factor
        self._scheduler = scheduler or tunes(first, factor, epochs)
        self._known: set[str] = set()
        self.decisions: list[Decision] = []
        file = root / FILE
        if file.exists():
            kept = Decisions.read(file)
            if (kept.first, kept.factor) != (first, factor):
                told = f"{file} was decided with first = {kept.first}, factor = {kept.factor}"
                raise ConfigError(f"{told}; leave [halving] as it was, or choose another --out")
            for one in kept.decisions:
                self._ask(one.run, one.epochs, one.miou)
                self.decisions.append(one)

    def stopped(self, run: str) -> Decision | None:
        """The decision that stopped a run."""
        return next((one for one in self.decisions if one.run == run and not one.goes_on), None)

    def state(self, command: Command) -> State:
        """As `engine.sweep.done.state_of`; of a run that is stopped everything is done."""
        run, _, part = command.name.partition("/")
        if self.stopped(run) is not None:
            return State(done=True)
        if not part.startswith("rung"):
            return state_of(command)
        assert command.run is not None, "a rung is trained in a run's folder"
        here, at = RunDir(command.run), int(part.removeprefix("rung"))
        # One that its patience has ended is judged by what it had reached.
        done, of = epochs_of(here, 0), epochs_to_train(here, 0)
        if done < min(at, of or at):
            return State(done=False, mark=done)
        if not any((one.run, one.epochs) == (run, at) for one in self.decisions):
            self._decide(run, at, miou_at(here, at))
        return State(done=True, mark=done)

    def told(self) -> list[str]:
        """A line for each run that was stopped."""
        return [
            f"{one.run} was stopped after {one.epochs} epochs of fold 0, mIoU {one.miou:.4f}"
            for one in self.decisions
            if not one.goes_on
        ]

    def _decide(self, run: str, epochs: int, miou: float) -> None:
        goes_on = self._ask(run, epochs, miou)
        self.decisions.append(Decision(run=run, epochs=epochs, miou=miou, goes_on=goes_on))
        Decisions(first=self._first, factor=self._factor, decisions=tuple(self.decisions)).write(
            self._root / FILE
        )
        what = "goes on" if goes_on else "is stopped"
        _log.info("%s has mIoU %.4f after %d epochs of fold 0, and %s", run, miou, epochs, what)

    def _ask(self, run: str, epochs: int, miou: float) -> bool:
        trial = Trial(run)
        if run not in self._known:
            self._known.add(run)
            self._scheduler.on_trial_add(None, trial)
        result = {"epochs": epochs, "miou": miou}
        return self._scheduler.on_trial_result(None, trial, result) == GOES_ON


def judge_of(sweep: SweepFile, runs: Sequence[Run], root: Path) -> Halving | None:
    """What stops poor runs of a sweep whose folder is `root`; None if nothing does."""
    if sweep.halving is None:
        return None
    epochs = max(run.config.training.epochs for run in runs)
    return Halving(root, sweep.halving.first, sweep.halving.factor, epochs)


def tunes(first: int, factor: int, epochs: int) -> Scheduler:
    """Ray Tune's ASHA; a RuntimeError where it is not installed."""
    try:
        from ray.tune.schedulers import AsyncHyperBandScheduler
    except ImportError as error:
        raise RuntimeError(f"[halving] needs Ray Tune: {to_install('ray[tune]')}") from error
    made: Scheduler = AsyncHyperBandScheduler(
        time_attr="epochs",
        metric="miou",
        mode="max",
        grace_period=first,
        max_t=max(epochs, first + 1),
        reduction_factor=factor,
        brackets=1,
    )
    return made


def miou_at(run: RunDir, epochs: int) -> float:
    """The latest mIoU that the first fold of a run had by an epoch.

    A ConfigError if it was not validated until then.
    """
    lines = run.metrics(0).read_bytes().splitlines()[:epochs]
    found = [line["miou"] for line in map(json.loads, lines) if "miou" in line]
    if not found:
        told = f"{run.root}: fold 0 is not validated in its first {epochs} epochs"
        raise ConfigError(f"{told}; lower training.validate_every, or raise halving.first")
    return float(found[-1])
