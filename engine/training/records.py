"""What training hands on: losses of a step and an epoch, where a fold stands, what it leaves."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from engine.data.inputs import Normalisation
from engine.rundir import Record


class Losses(NamedTuple):
    """Scalars on the device; `total` carries the gradient."""

    total: Tensor
    segmentation: Tensor
    depth: Tensor


class MeanLosses(NamedTuple):
    """Losses of an epoch, so far, as the epoch line names them."""

    loss: float
    segmentation_loss: float
    depth_loss: float


class EpochLine(Record):
    """A line of `metrics.jsonl`. What was not trained or not validated is not in it."""

    epoch: int
    """From 1; 0 for weights that were taken as they are."""
    lr: float | None = None
    loss: float | None = None
    segmentation_loss: float | None = None
    depth_loss: float | None = None
    validation_loss: float | None = None
    """Mean -log p of the validation labels by the weight average's single view at T = 1, over the
    sample of `engine.views.sampled`; no weights of class or boundary, so unlike
    `segmentation_loss`. Left out before, and where the sample has no labelled pixel."""
    miou: float | None = None
    pixel_acc: float | None = None
    train_s: float
    validation_s: float
    stopped_early: bool | None = None
    """True where `training.patience` ended the fold with this epoch, else left out."""


@dataclass
class Position:
    """Where a fold stands: `step` steps of epoch `epoch` (from 0) are done."""

    epoch: int = 0
    step: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What `last.pt` holds; as it is read, on the CPU and mapped into memory."""

    position: Position
    content: dict[str, Any]


@dataclass(frozen=True)
class BestNote:
    """What `best.safetensors` says of its weights: best after `epoch`, from 1, on such input."""

    config_hash: str
    fold: int
    epoch: int
    normalisation: Normalisation
