"""How long a call still takes, told with each epoch by what the last ones took."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.runtime.progress import duration
from engine.training.records import EpochLine

if TYPE_CHECKING:
    from engine.training.loop import FoldTask

RECENT = 3
"""Epochs by which those to come are judged: the machine may be busier now than at the start."""


def time_left(metrics: Sequence[EpochLine], task: "FoldTask") -> str:
    """Time until the call ends, after the last epoch of a fold; "> " before what more comes on top.

    This fold's epochs and those of the folds to come, their validations, and the views of the
    frames that are then predicted, which take a validation's time by their size. Not known is how
    long a validation takes before there was one, and so the views. Nothing is said of the atlas.
    """
    config, done = task.config, len(metrics)
    training, views, epochs = config.training, config.inference, config.training.epochs
    recent, scored = (
        metrics[-RECENT:],
        [line for line in metrics if line.miou is not None][-RECENT:],
    )
    train_s = sum(line.train_s for line in recent) / len(recent)
    due = [
        epoch
        for epoch in range(1, epochs + 1)
        if epoch % training.validate_every == 0 or epoch == epochs
    ]
    left_s = train_s * (epochs - done + task.later * epochs)
    if not scored:
        return f"> {duration(left_s)}"
    validation_s = sum(line.validation_s for line in scored) / len(scored)
    left_s += validation_s * (sum(epoch > done for epoch in due) + task.later * len(due))
    frames, folds = len(task.dataset.train.samples), config.data.folds
    if task.fold + task.later + 1 < folds:
        # Other folds remain for another call: it predicts the test frames, with all of them.
        predicted = frames * (task.later + 1) / folds
    else:
        predicted = frames + len(task.dataset.test.samples) * folds
    pixels = sum(scale**2 for scale in views.scales) * (1 + views.flip)
    left_s += validation_s * pixels * predicted / max(1, len(task.validation))
    return duration(left_s)
