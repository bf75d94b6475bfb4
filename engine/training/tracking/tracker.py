"""What a fold shows of its epochs elsewhere: what `metrics.jsonl` says, and nothing else.

A tracker is begun anew by every call, with the lines that stand then. So none shows what was ahead
of the checkpoint that a fold goes on from, and one that is asked for late shows all epochs.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import ClassVar, Protocol

from engine.config import Config
from engine.rundir import RunDir
from engine.training.records import EpochLine

_log = logging.getLogger(__name__)

NAMES = {
    "lr": "lr",
    "loss": "loss/training",
    "segmentation_loss": "loss/segmentation",
    "depth_loss": "loss/depth",
    "validation_loss": "loss/validation",
    "miou": "score/miou",
    "pixel_acc": "score/pixel_acc",
    "train_s": "seconds/training",
    "validation_s": "seconds/validation",
}
"""What a field of `EpochLine` is called there; what stands before the slash makes a group."""

_WRITERS = {
    "tensorboard": ("engine.training.tracking.event_file", "EventFile"),
    "wandb": ("engine.training.tracking.wandb_run", "WandbRun"),
    "mlflow": ("engine.training.tracking.mlflow_run", "MlflowRun"),
}
"""By field of [report]: module and class, which import what may not be installed."""


class Tracker(Protocol):
    """Shows one fold somewhere else; made with (config, run, fold), it begins the fold anew."""

    errors: ClassVar[tuple[type[Exception], ...]]
    """What its package raises where it cannot go on, besides OSError."""

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Show what an epoch, from 1, has measured."""

    def close(self) -> None:
        """Have all of it shown."""


def figures_of(line: EpochLine) -> dict[str, float]:
    """What an epoch has measured, by its `NAMES`."""
    told = {name: getattr(line, key) for key, name in NAMES.items()}
    return {name: value for name, value in told.items() if value is not None}


@contextmanager
def tracked(
    config: Config, run: RunDir, fold: int, lines: Sequence[EpochLine]
) -> Iterator[Callable[[EpochLine], None]]:
    """Show the epochs so far wherever `config.report` asks for, and yield what shows the next.

    No result depends on it: a tracker that fails is closed, which a warning says, and the fold goes
    on without it.
    """
    opened: dict[str, Tracker] = {}

    def attempt(name: str, act: Callable[[Tracker], None]) -> None:
        tracker = opened[name]
        errors: tuple[type[Exception], ...] = (OSError, *tracker.errors)
        try:
            act(tracker)
        except errors as error:
            _log.warning("fold %d goes on without %s: %s", fold, name, error)
            with suppress(*errors):
                opened.pop(name).close()

    def show(line: EpochLine) -> None:
        for name in tuple(opened):
            attempt(name, lambda tracker: tracker.log(line.epoch, figures_of(line)))

    for name, (module, kind) in _WRITERS.items():
        if getattr(config.report, name):
            writer = getattr(import_module(module), kind)
            errors: tuple[type[Exception], ...] = (OSError, *writer.errors)
            try:
                opened[name] = writer(config, run, fold)
            except errors as error:
                _log.warning("fold %d goes on without %s: %s", fold, name, error)
    for line in lines:
        show(line)
    try:
        yield show
    finally:
        for name in tuple(opened):
            attempt(name, lambda tracker: tracker.close())
        opened.clear()
