"""What a sweep takes, by steps and views that are measured here, once for each shape of a run."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.rundir import RunDir
from engine.sweep.runs import Run

if TYPE_CHECKING:
    from engine.training.pace import Pace

_log = logging.getLogger(__name__)

_NO_SHAPE: Mapping[str, set[str] | bool] = {
    "data": {"root", "fold_seed"},
    "training": {
        "seed",
        "epochs",
        "lr",
        "weight_decay",
        "schedule",
        "warmup",
        "ema_decay",
        "ema_warmup",
        "class_weights",
        "boundary_weight",
        "validate_every",
        "patience",
    },
    "selection": True,
    "report": True,
}
"""Fields on which the time of a step or a view does not depend. Number and kind of folds are not
among them: they say how many frames a fold has."""


@dataclass(frozen=True)
class Cost:
    """What a run takes.

    Attributes:
        seconds: of one device, without the check of its files and the atlas.
        threads: of a CPU that it keeps busy; 0 where a GPU computes.
    """

    seconds: float
    threads: int

    @property
    def hours(self) -> float:
        """Of a core, or of a GPU."""
        return self.seconds * (self.threads or 1) / 3600


@dataclass(frozen=True)
class _Measured:
    pace: "Pace"
    steps: int
    """Of an epoch."""
    validation: int
    """Frames that a fold validates."""
    frames: int
    tests: int
    threads: int


def costs_of(runs: Sequence[Run], root: Path, threads: int | None) -> list[Cost]:
    """What each run takes, from its first step: nothing of what is done is taken off.

    Raises as training would refuse its config, dataset or device.
    """
    measured: dict[str, _Measured] = {}
    costs = []
    for run in runs:
        shape = run.config.model_dump_json(exclude=_NO_SHAPE)
        if shape not in measured:
            _log.info("measuring steps and views of %s", run.name)
            measured[shape] = _measure(run, root, threads)
        costs.append(_cost(run, measured[shape]))
    return costs


def _measure(run: Run, root: Path, threads: int | None) -> _Measured:
    import torch

    from engine.experiment import open_experiment
    from engine.plug_ins import permit
    from engine.training.pace import measure

    config, before = run.config, torch.get_num_threads()
    permit(config.code)  # its configs are the user's own
    if threads is not None and not config.runtime.threads:
        runtime = config.runtime.model_copy(update={"threads": threads})
        config = config.model_copy(update={"runtime": runtime})
    with _quiet():
        opened = open_experiment(config, RunDir(root / run.name))
        task = opened.task(run.folds[0])
        pace = measure(task, opened.policy)
    used = torch.get_num_threads() if opened.policy.device.type == "cpu" else 0
    torch.set_num_threads(before)
    dataset = opened.dataset
    counts = len(task.validation), len(dataset.train.samples), len(dataset.test.samples)
    return _Measured(pace, task.steps_per_epoch, *counts, used)


def _cost(run: Run, measured: _Measured) -> Cost:
    """Training and validations of all folds; if all are trained, the views of all frames too."""
    training, folds, pace = run.config.training, len(run.folds), measured.pace
    scored = -(-training.epochs // training.validate_every)
    seconds = folds * training.epochs * measured.steps * pace.step_s
    seconds += folds * scored * measured.validation * pace.validation_s
    if run.is_whole:
        seconds += (training.members * measured.frames + folds * measured.tests) * pace.views_s
    return Cost(seconds, measured.threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing of the device once more for each shape."""
    logger = logging.getLogger("engine")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
