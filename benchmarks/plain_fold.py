"""A fold of the plain recipe on the engine's frames and folds, timed and counted frame by frame.

Axes: N frames that the fold validates, C classes (truth by prediction).
"""

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.equal_time import TEMPERATURE, open_run
from benchmarks.plain.data import Samples, crop_loader
from benchmarks.plain.model import build_model
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.run import Predictor, Stepper, load_best, train_fold, winners
from benchmarks.plain.selection import confusion
from benchmarks.points import Clock
from benchmarks.subset import with_section
from engine.config import Config
from engine.experiment import Experiment

VARIANT = Recipe(channels_last=True, shared_passes=True)
"""What a user may do to be faster changes no result."""

Watch = Callable[[Iterable[Any], nn.Module, Stepper], Iterable[Any]]


def stepping(run: Experiment, fold: int) -> Callable[[], object]:
    """What takes the fold's next step each time that it is called, its batch included."""
    training, config = _parts(run, fold)[0], run.config
    torch.manual_seed(config.training.seed)
    loader = crop_loader(training, config, VARIANT, config.training.seed)
    stepper = Stepper(build_model(config, VARIANT), config, VARIANT, len(loader))
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    return lambda: stepper(*next(batches))


def train_and_count(
    config: Config, fold: int, folder: Path
) -> tuple[NDArray[np.int64], tuple[float, float], Experiment]:
    """Train the fold and predict it by all views.

    Returns:
        Counts (N, C, C), seconds of training and of all else until it was trained, the experiment.
    """
    run, clock, start_s = open_run(config, folder / "run"), Clock(), time.perf_counter()
    best = train(run, fold, folder, lambda batches, *_: clock.over(batches))
    other_s = time.perf_counter() - start_s - clock.seconds
    return count(run, fold, best), (clock.seconds, other_s), run


def train(run: Experiment, fold: int, folder: Path, watch: Watch) -> Path:
    """Train the fold; the file of its best averaged weights."""
    best = folder / "best.pt"
    train_fold(run.config, *_parts(run, fold), fold, best, VARIANT._replace(watch=watch))
    return best


def count(run: Experiment, fold: int, best: Path) -> NDArray[np.int64]:
    """(N, C, C) of the frames that the fold validates, by all views."""
    once = with_section(run.config, "inference", temperatures=[TEMPERATURE])
    predictor, classes = load_best(once, best, VARIANT), len(run.config.data.classes)
    counts = []
    for prob_THWC, label_HW in predictor.predict_fold(_parts(run, fold)[1]):
        counts.append(confusion(winners(prob_THWC[0], label_HW.shape), label_HW, classes))
    return np.stack(counts)


def look(run: Experiment, fold: int, averaged: nn.Module, stepper: Stepper) -> NDArray[np.int64]:
    """(C, C) of the fold's validation frames by one view of the average of the weights."""
    averaged.load_state_dict(stepper.average.state)
    return Predictor(averaged, run.config, VARIANT).validate(_parts(run, fold)[1])


def _parts(run: Experiment, fold: int) -> tuple[Samples, Samples]:
    """Frames to train on and to validate."""
    samples = run.dataset.train.samples
    training, validation = (
        [samples[index] for index in part.tolist()]
        for part in (run.folds.training(fold), run.folds.validation(fold))
    )
    return training, validation
