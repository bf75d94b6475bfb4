"""Steps of a fold in any form, on batches of its own, and the same in float32 to hold them to."""

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from engine.data.batch import Batch
from engine.model.network import build_network
from engine.runtime.device import DevicePolicy, operations_of
from engine.runtime.forms import PLAIN, StepForm
from engine.runtime.gpu import true_float32
from engine.runtime.graphs import EAGER_CALLS, free_recordings
from engine.training.loop import FoldTask, FoldTraining
from engine.training.step import TrainStep, step_seed
from engine.training.tuning.check import Errors, Passed, Weights, errors, passed, whole_step

BATCHES = 3
"""That errors are told of: the first of a fold's first epoch."""


@contextmanager
def own_randomness(policy: DevicePolicy) -> Iterator[None]:
    """What is drawn inside leaves the generators as they were."""
    with torch.random.fork_rng([policy.device] if policy.device.type == "cuda" else []):
        yield


def undisturbed(task: FoldTask) -> FoldTask:
    """A fold that drops nothing: compiled, a step draws other numbers than eager, and differs.

    What it drops is no part of a form. Its batches are decoded, whatever the source.
    """
    rates = dict.fromkeys(("dropout", "drop_path", "aspp_dropout"), 0.0)
    model = task.config.model.model_copy(update=rates)
    runtime = task.config.runtime.model_copy(update={"source": "torch"})
    config = task.config.model_copy(update={"model": model, "runtime": runtime})
    return replace(task, config=config)


def fixed_batches(fold: FoldTraining) -> list[Batch]:
    """The first batches of the fold's first epoch, on its device; fewer in a smaller fold."""
    return list(itertools.islice(fold.open_source().batches(fold.draws(0, 0)), BATCHES))


def float32(policy: DevicePolicy) -> DevicePolicy:
    """Eager, unrecorded, in float32, by plain PyTorch."""
    policy = replace(policy.formed(PLAIN), autocast_dtype=None, replay=False)
    return replace(policy, operations=operations_of("reference"), deterministic=False)


class StepWorkshop:
    """Makes a fold's step in one form after the other; see `engine.training.tuning.tuner`.

    All begin with the fold's starting weights. The network drops nothing, see `undisturbed`.
    """

    def __init__(self, task: FoldTask, policy: DevicePolicy) -> None:
        self.policy, self._task = policy, undisturbed(task)
        self.products = policy.autocast_dtype or torch.float32

    def prepare(self, form: StepForm) -> "StepTrial":
        """Build, compile and record the step; a RuntimeError says why this machine cannot."""
        self._free()
        if self.policy.replay:
            _ = self._truth  # the first time, while no trial's memory is taken
        step = FoldTraining(self._task, self.policy.formed(form), blank=True).step
        step.learner.network.load_state_dict(self._start)
        trial = StepTrial(step, self._batches, self._start, lambda: self._truth)
        # The last of them records; where nothing is recorded, libraries choose in the first.
        for _ in range(EAGER_CALLS + 1 if self.policy.replay else 1):
            trial.run()
        return trial

    @cached_property
    def _start(self) -> Weights:
        """The fold's starting weights, on the CPU."""
        config, fold = self._task.config, self._task.fold
        torch.manual_seed(step_seed(config.training.seed, fold, -1))
        model, names = config.model.of_fold(fold), config.data.classes
        return build_network(model, len(names), names=names).state_dict()

    @cached_property
    def _batches(self) -> list[Batch]:
        return fixed_batches(FoldTraining(self._task, float32(self.policy), blank=True))

    @cached_property
    def _truth(self) -> list[Passed]:
        """What float32 makes of the batches."""
        with true_float32():
            step = FoldTraining(self._task, float32(self.policy), blank=True).step
            return passed(step, self._batches, self._start)

    def _free(self) -> None:
        """Return the memory of the trial before: its holder is gone, or about to go."""
        gc.collect()
        if self.policy.replay:
            free_recordings()


@dataclass(eq=False)
class StepTrial:
    """A step that is ready to be timed, and to be held to float32."""

    step: TrainStep
    batches: list[Batch]
    start: Weights
    truth: Callable[[], list[Passed]]
    number: int = 0

    def run(self) -> None:
        """Train on the next batch, and wait for it."""
        batch = self.batches[self.number % len(self.batches)]
        whole_step(self.step, batch, self.step.loss.config.lr, self.number)
        self.number += 1

    def errors(self) -> Errors:
        """How far the step is from float32 over all batches."""
        return errors(self.step, self.batches, self.start, self.truth())
