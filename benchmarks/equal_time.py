"""Two trainings of a fold in equal time: steps timed in turns, epochs by them, the fold predicted.

The epochs of a side are as many as fit the seconds by its own measured step, so that no side gains
by what else the machine did meanwhile. Each training and measurement is a process of its own.

Axes: N frames that the fold validates, C classes (truth by prediction).
"""

import contextlib
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Facts
from benchmarks.recipes import Recipe
from benchmarks.sides import Prepared, Side
from engine.config import Config
from engine.mistakes import ConfigError

if TYPE_CHECKING:
    from engine.experiment import Experiment

WARM, ROUNDS = 3, 15
"""Steps of each side that are not counted, and that are, each round one of every side. A machine
that is slower for a minute is so for all of them: one side after the other, steps of the same work
were measured at 0.42 to 0.65 s on two cores that others' work slowed down."""

VALIDATIONS = 3
"""Of each training, evenly spread, the last one at its end; the best of them is predicted."""

TEMPERATURE = 1.0
"""Of the softmax by which a fold's frames are predicted."""


class Measured(NamedTuple):
    """What an epoch takes.

    Attributes:
        step_s: seconds of a step, by round.
        steps: of an epoch.
    """

    step_s: Sequence[float]
    steps: int

    @property
    def epoch_s(self) -> float:
        """Seconds of the steps of an epoch."""
        return statistics.median(self.step_s) * self.steps


class Trained(NamedTuple):
    """A fold that was trained and predicted by all views.

    Attributes:
        counts: name of the .npy of each frame's pixels, (N, C, C) uint32.
        group: (N,) scene or block of each frame, see `engine.selection.scores.group_of`.
        groups_of: "scene" or "block".
        miou: of all frames, at the labels' size.
        frames: trained on, and predicted.
        train_s: seconds of its epochs.
        validation_s: seconds of their validations.
    """

    counts: str
    group: Sequence[int]
    groups_of: str
    miou: float
    frames: tuple[int, int]
    train_s: float
    validation_s: float

    def loaded(self) -> NDArray[np.uint32]:
        """What `counts` holds, (N, C, C)."""
        count_NCC: NDArray[np.uint32] = np.load(self.counts)
        return count_NCC


def measure_in_turns(
    recipes: Sequence[Recipe], fold: int, scratch: Path, rounds: int = ROUNDS
) -> dict[str, Measured]:
    """Time steps of whole size, batches included, a step of each recipe in turns; by name.

    Nothing stays but the folder `scratch`. Raises as `Side`.
    """
    taken: dict[str, list[float]] = {one.name: [] for one in recipes}
    with contextlib.ExitStack() as stack:
        sides: dict[str, Side] = {}
        for one in recipes:
            threads = one.config.runtime.threads or len(os.sched_getaffinity(0))
            side = Side(one.name, threads, _steps, one, fold, scratch / one.name)
            sides[one.name] = stack.enter_context(side)
        for number in range(WARM - 1 + rounds):  # each side has taken one by now
            for name, side in sides.items():
                called = side.call()
                if number >= WARM - 1:
                    taken[name].append(called.seconds)
        return {name: Measured(taken[name], side.first.facts.steps) for name, side in sides.items()}


def _steps(one: Recipe, fold: int, folder: Path) -> Prepared:
    """A side that takes a step at each call."""
    run = open_run(one.config, folder)
    task = run.task(fold)
    step: Callable[[], object]
    if one.plain:
        from benchmarks.plain_fold import stepping as plain_stepping

        step = plain_stepping(run, fold)
    else:
        from engine.training.loop import FoldTraining
        from engine.training.pace import stepping

        step = stepping(FoldTraining(task, run.policy))

    def run_once() -> Facts:
        step()
        return Facts(task.batch_size, steps=task.steps_per_epoch)

    return Prepared(run_once)


def fitted(one: Recipe, epoch_s: float, seconds: float) -> Recipe:
    """The recipe with as many epochs as fit the seconds, evenly validated.

    Raises:
        ConfigError: not one does.
    """
    epochs = math.floor(seconds / epoch_s + 1e-6)
    if not epochs:
        needed = f"give --minutes {math.ceil(epoch_s / 6) / 10:g} or more"
        raise ConfigError(
            f"{one.name}: an epoch takes {epoch_s:.1f} s, more than {seconds:.1f} s; {needed}"
        )
    return one.having(epochs=epochs, validate_every=math.ceil(epochs / VALIDATIONS))


def train_and_predict(one: Recipe, fold: int, folder: Path) -> Trained:
    """Train a fold, or go on with it, and predict the frames that it validates by all views.

    A training by the engine goes on where it stopped, a plain one begins anew.

    Args:
        one: how, and for how many epochs.
        fold: which.
        folder: for the run, `run`, and the counts.
    """
    if one.plain:
        from benchmarks.plain_fold import train_and_count

        count_NCC, seconds, run = train_and_count(one.config, fold, folder)
    else:
        count_NCC, seconds, run = _ours(one.config, fold, folder)
    path = folder / "counts.npy"
    np.save(path, count_NCC.astype(np.uint32))
    from engine.selection.scores import group_of
    from kernels.metrics import mean_iou

    groups, validation = group_of(run.dataset.train.samples), run.folds.validation(fold)
    frames = len(run.folds.training(fold)), len(validation)
    group = np.array(groups.of)[validation].tolist()
    miou = float(mean_iou(count_NCC.sum(axis=0)))
    return Trained(str(path), group, groups.kind, miou, frames, *seconds)


def open_run(config: Config, folder: Path) -> "Experiment":
    """The experiment on its frames, its run in `folder`; writes nothing."""
    from engine.experiment import open_experiment
    from engine.rundir import RunDir

    return open_experiment(config, RunDir(folder))


def predict_counts(run: "Experiment", fold: int) -> NDArray[np.int64]:
    """(N, C, C) of the fold's validation frames by all views of its best network."""
    from engine.views.predictor import open_predictor

    begun = run.as_begun(fold)
    predictor = open_predictor(begun.config, run.dir, [fold], begun.policy).at(TEMPERATURE)
    samples = [run.dataset.train.samples[index] for index in run.folds.validation(fold).tolist()]
    counts = []
    for frames, prob_BTCHW in predictor.predict(samples, label=True):
        assert frames.label_BHW is not None, "asked for"
        for prob_CHW, label_HW in zip(prob_BTCHW[:, 0], frames.label_BHW, strict=True):
            count = predictor.policy.operations.probability_confusion
            counts.append(count(prob_CHW[None], label_HW[None]).cpu().numpy())
    return np.stack(counts)


def _ours(
    config: Config, fold: int, folder: Path
) -> tuple[NDArray[np.int64], tuple[float, float], "Experiment"]:
    """Counts, seconds of training and of validation, and the experiment."""
    from engine.resume import Goal
    from engine.rundir import RunDir
    from engine.train import train
    from engine.training.checkpoint import read_metrics

    dir_ = RunDir(folder / "run")
    train(config, dir_, [fold], resume=True, goal=Goal("trained"))
    lines = read_metrics(dir_.metrics(fold), config.training.epochs)
    seconds = sum(line.train_s for line in lines), sum(line.validation_s for line in lines)
    run = open_run(config, dir_.root)
    return predict_counts(run, fold), seconds, run


def told_measured(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """By name what the JSON says of measured steps."""
    return {
        name: {"step_s": [round(s, 5) for s in each.step_s], "steps_per_epoch": each.steps}
        for name, each in measured.items()
    }
