"""A fold's mIoU against the minutes of its training: ours and the plain recipe's, as a picture.

Such a training looks at its averaged network at fixed points of training time, by one view at the
labels' size, and once at its end by all views.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.equal_time import open_run, predict_counts
from benchmarks.points import LEVELS, Clock, Point, told_reached
from benchmarks.recipes import Recipe
from engine.data.batch import Batch, Draws, Source
from engine.experiment import Experiment
from engine.lease import hold
from engine.resume import check_same_experiment
from engine.runtime.device import DevicePolicy
from engine.training.loop import FoldTask, FoldTraining
from engine.whole import whole_file, write_text
from kernels.metrics import mean_iou

_STATE, _KEPT = "clock.json", 3
"""What a training goes on from, and for how many of its last checkpoints."""

_COLOURS = ("#0066cc", "#cc5500", "#2f8f2f", "#8844aa", "#777777")
_INCHES, _DOTS_PER_INCH = (7.2, 4.4), 110


def train_curve(one: Recipe, fold: int, folder: Path, every_s: float) -> dict[str, Any]:
    """Train a fold, or go on with it, and return what the JSON says of it.

    A training by the engine goes on where it stopped, a plain one begins anew.

    Args:
        one: how, and for how many epochs; only the last one is validated besides.
        fold: which.
        folder: for the run, `run`, or what the plain recipe leaves.
        every_s: seconds of training from one point to the next.
    """
    one = one.having(validate_every=max(1, one.config.training.epochs))
    run = open_run(one.config, folder / "run")
    clock, miou = _plain(run, fold, folder, every_s) if one.plain else _ours(run, fold, every_s)
    return {
        "epochs": one.config.training.epochs,
        "steps": clock.steps,
        "train_s": round(clock.seconds, 1),
        "validation_s": round(sum(point.validation_s for point in clock.points), 1),
        "miou": clock.points[-1].miou,
        "all_views_miou": miou,
        "reached_s": told_reached(clock.points),
        "points": [point._asdict() for point in clock.points],
    }


class WatchedTraining(FoldTraining):
    """A fold in training whose clock stands in a file, for as long as its checkpoint does.

    Attributes:
        clock: looks at the average every so often.
    """

    def __init__(self, task: FoldTask, policy: DevicePolicy, every_s: float) -> None:
        super().__init__(task, policy)
        self._state, steps = task.run.fold(task.fold) / _STATE, self._steps
        kept = json.loads(self._state.read_text("utf-8")) if self._state.exists() else {}
        self._saved: dict[str, float] = kept.get("saved", {}) if steps else {}
        points = [Point(*point) for point in kept.get("points", ())]
        before = [point for point in points if point.steps <= steps]
        known = [point.train_s for point in before if point.steps == steps]
        at = max([*known, self._saved[str(steps)] if steps else 0.0]), steps
        self.clock = Clock(every_s, self._look, self._write_clock, at, before)

    def open_source(self) -> Source:
        """As it is, with the clock over it."""
        return _Watched(super().open_source(), self.clock)

    def save(self) -> None:
        """Write the clock, then `last.pt`: killed between the two, the older time stands there."""
        self._saved[str(self._steps)] = self.clock.now_s()
        self._write_clock()
        super().save()

    @property
    def _steps(self) -> int:
        return self.position.epoch * self.task.steps_per_epoch + self.position.step

    def _write_clock(self) -> None:
        saved = dict([*self._saved.items()][-_KEPT:])
        write_text(self._state, json.dumps({"saved": saved, "points": self.clock.points}) + "\n")

    def _look(self) -> float:
        samples = self.task.dataset.train.samples
        with self.learner.ema.whole():
            count_CC, _ = self.predictor.validate([samples[i] for i in self.task.validation])
        return float(mean_iou(count_CC))


@dataclass
class _Watched:
    """A source under a clock."""

    source: Source
    clock: Clock

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        return self.clock.over(self.source.batches(draws))


def _ours(run: Experiment, fold: int, every_s: float) -> tuple[Clock, float]:
    """Train by the engine: its clock, and the mIoU by all views."""
    if run.dir.config.is_file():
        check_same_experiment(run.config, run.dir)
    with hold(run.dir.training(fold)):
        run.write_description()
        run.dir.fold(fold).mkdir(exist_ok=True)
        task, policy = run.begin(fold)
        training = WatchedTraining(task, policy, every_s)
        training.run()
        training.clock.look()
    return training.clock, float(mean_iou(predict_counts(run, fold).sum(axis=0)))


def _plain(run: Experiment, fold: int, folder: Path, every_s: float) -> tuple[Clock, float]:
    """Train by the plain recipe: its clock, and the mIoU by all views."""
    from benchmarks import plain_fold

    parts: list[Any] = []
    clock = Clock(every_s, lambda: float(mean_iou(plain_fold.look(run, fold, *parts))))

    def watch(batches: Iterable[Any], *trained: Any) -> Iterator[Any]:
        parts[:] = trained
        return clock.over(batches)

    best = plain_fold.train(run, fold, folder, watch)
    clock.look()
    return clock, float(mean_iou(plain_fold.count(run, fold, best).sum(axis=0)))


def draw(curves: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw mIoU against minutes, a colour a recipe and a line a seed, as PNG or SVG by the name.

    Args:
        curves: of the JSON, at least one.
        path: the file; whole or not at all.
    """
    # Not to train.
    from matplotlib.figure import Figure

    figure = Figure(_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(curve["name"] for curve in curves))
    for curve in curves:
        number = names.index(curve["name"])
        minutes = [point["train_s"] / 60 for point in curve["points"]]
        mious = [point["miou"] for point in curve["points"]]
        is_first = next(c for c in curves if c["name"] == curve["name"]) is curve
        label = curve["name"] if is_first else None
        axes.plot(minutes, mious, ".-", color=_COLOURS[number % len(_COLOURS)], label=label)
    low, high = axes.get_ylim()
    for level in LEVELS:
        if low <= level <= high:
            axes.axhline(level, color="#999999", linewidth=0.6, linestyle=":")
    axes.set(xlabel="minutes of training", ylabel="mIoU, one view", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."))
