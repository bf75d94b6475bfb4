"""How long a call still takes, told with each epoch by what the last ones took."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.runtime.progress import duration
from engine.training.patience import is_over
from engine.training.records import EpochLine

if TYPE_CHECKING:
    from engine.training.loop import FoldTask

RECENT = 3
"""Epochs by which those to come are judged: the machine may be busier now than at the start."""


def time_left(metrics: Sequence[EpochLine], task: "FoldTask") -> str:
    """Time until the call ends, after the last epoch of a fold; "> " before what more comes on top.

    "at most" where `training.patience` may end this fold, or one to come, before its last epoch.

    This fold's epochs and those of the folds to come, their validations, and the views of the
    frames that are then predicted, which take a validation's time by their size. Not known is how
    long a validation takes before there was one, and so the views. Nothing is said of the atlas.
    """
    recent, scored = (
        metrics[-RECENT:],
        [line for line in metrics if line.miou is not None][-RECENT:],
    )
    training, epochs = task.config.training, task.config.training.epochs
    done = epochs if is_over(metrics) else len(metrics)
    most = "at most " if training.patience and (done < epochs or task.later) else ""
    train_s = sum(line.train_s for line in recent) / len(recent)
    if not scored:
        due_s = duration(train_s * (epochs - done + task.later * epochs))
        return f"{most}{due_s} and scores" if most else f"> {due_s}"
    validation_s, views = (
        sum(line.validation_s for line in scored) / len(scored),
        task.config.inference,
    )
    pixels = sum(scale**2 for scale in views.scales) * (1 + views.flip)
    views_s = validation_s * pixels / max(1, len(task.validation))
    return most + duration(seconds_left(task, done, train_s, validation_s, views_s))


def seconds_left(
    task: "FoldTask", done: int, train_s: float, validation_s: float, views_s: float
) -> float:
    """What a call still takes after `done` epochs of a fold.

    By seconds of an epoch, of a validation, and of all views of a frame by one network.
    """
    training, epochs = task.config.training, task.config.training.epochs
    due = [
        epoch
        for epoch in range(1, epochs + 1)
        if epoch % training.validate_every == 0 or epoch == epochs
    ]
    left_s = train_s * (epochs - done + task.later * epochs)
    left_s += validation_s * (sum(epoch > done for epoch in due) + task.later * len(due))
    frames, folds = len(task.dataset.train.samples), task.config.networks
    held_out = frames * training.members if task.config.holds_out else 0
    if task.fold + task.later + 1 < folds:
        # Other folds remain for another call: it predicts the test frames, with all of them.
        predicted = held_out * (task.later + 1) / folds
    else:
        predicted = held_out + len(task.dataset.test.samples) * folds
    return left_s + views_s * predicted
