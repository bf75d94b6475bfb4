"""How fast a fold trains and predicts here: some real steps and views. Nothing that stays is made.

What `engine.train --dry-run` tells of time and memory.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.runtime.progress import track
from engine.training.loop import FoldTask, FoldTraining
from engine.training.step import learning_rate

WARM_STEPS, STEPS = 2, 10
"""Steps that are not counted (libraries choose their kernels) and that are, at most."""

WARM_STEPS_GPU = 5
"""A GPU's step is recorded, too: as `engine.training.profile` has it."""

ENOUGH_S = 20.0
"""Seconds after which no further step is measured once there are `LEAST`: some take a minute."""

LEAST = 2

FRAMES = 8
"""Frames that views are measured on, at most: a batch to warm up, and as many again."""


@dataclass(frozen=True)
class Pace:
    """What was measured of one fold, seconds.

    Attributes:
        step_s: median of `steps` training steps, batches included; 0 where there is no epoch.
        steps: how many were counted.
        validation_s: of one frame by one view, with its counts.
        views_s: of one frame by all views.
        frames: how many frames the two were measured on.
        peak_bytes: of a GPU's memory that tensors held meanwhile; None on a CPU.
    """

    step_s: float
    steps: int
    validation_s: float
    views_s: float
    frames: int
    peak_bytes: int | None


def measure(task: FoldTask, policy: DevicePolicy) -> Pace:
    """Time steps and views of a fold that begins anew; raises as `FoldTraining`."""
    on_gpu = policy.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(policy.device)
    with tempfile.TemporaryDirectory(prefix="roomsmith-dry-run-") as scratch:
        fold = FoldTraining(replace(task, run=RunDir(Path(scratch))), policy)
        taken = _steps(fold) if fold.config.training.epochs else []
        validation_s, views_s, frames = _views(fold)
        fold.files.finish()
    peak = torch.cuda.max_memory_allocated(policy.device) if on_gpu else None
    step_s = statistics.median(taken) if taken else 0.0
    return Pace(step_s, len(taken), validation_s, views_s, frames, peak)


def stepping(fold: FoldTraining) -> Callable[[], None]:
    """What takes the fold's next step each time that it is called, batch included."""
    task, training = fold.task, fold.config.training
    source = fold.open_source()
    epochs = (source.batches(fold.draws(epoch, 0)) for epoch in itertools.count())
    batches, numbers = itertools.chain.from_iterable(epochs), itertools.count()

    def step() -> None:
        number = next(numbers)
        rate = learning_rate(training, number, task.steps_per_epoch)
        fold.step(next(batches), rate, number, number)

    return step


def _steps(fold: FoldTraining) -> list[float]:
    """Seconds of each step that is counted."""
    step = stepping(fold)
    warm = WARM_STEPS_GPU if fold.policy.device.type == "cuda" else WARM_STEPS
    taken: list[float] = []
    with track("measuring steps", warm + STEPS) as advance:
        for number in range(warm + STEPS):
            seconds = _seconds(step, fold.policy.device)
            advance(1)
            if number >= warm:
                taken.append(seconds)
            if len(taken) >= LEAST and sum(taken) > ENOUGH_S:
                break
    return taken


def _views(fold: FoldTraining) -> tuple[float, float, int]:
    """Seconds a frame by one view and by all, and the number of frames."""
    samples, config = fold.task.dataset.train.samples, fold.config
    some = fold.task.validation if len(fold.task.validation) else fold.task.training
    asked = [samples[index] for index in some[:FRAMES]]
    single = fold.predictor
    each = []
    for predictor in (single, replace(single, inference=config.inference)):
        predictor.confusion(asked[: config.inference.batch_size])
        spent_s = _seconds(partial(predictor.confusion, asked), fold.policy.device)
        each.append(spent_s / len(asked))
    return each[0], each[1], len(asked)


def _seconds(act: Callable[[], object], device: torch.device) -> float:
    start_s = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start_s
