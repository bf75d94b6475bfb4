"""What a fold leaves: its exact state (`last.pt`), its best average, and a line an epoch."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from engine.data.inputs import Normalisation
from engine.rundir import Record, whole_file, write_text
from engine.runtime.progress import duration
from engine.training.step import Learner


class EpochLine(Record):
    """A line of `metrics.jsonl`. What was not trained or not validated is not in it."""

    epoch: int
    """From 1; 0 for weights that were taken as they are."""
    lr: float | None = None
    loss: float | None = None
    segmentation_loss: float | None = None
    depth_loss: float | None = None
    miou: float | None = None
    pixel_acc: float | None = None
    train_s: float
    validation_s: float


@dataclass
class Position:
    """Where a fold stands: `step` steps of epoch `epoch` (from 0) are done."""

    epoch: int = 0
    step: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What `last.pt` holds, on the CPU, mapped into memory."""

    position: Position
    content: dict[str, Any]


def save_last(path: Path, config_hash: str, position: Position, learner: Learner) -> None:
    """Write everything that training continues from, whole or not at all."""
    state = {
        "config_hash": config_hash,
        **vars(position),
        "network": learner.network.state_dict(),
        "ema": learner.ema.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "sums": learner.sums.sums,
    }
    with whole_file(path) as temporary:
        torch.save(state, temporary)


def load_last(path: Path, config_hash: str) -> Checkpoint | None:
    """What `save_last` wrote, or None; a damaged or another config's file is a RuntimeError."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"{path} cannot be read ({error}); delete {path.parent} to train the fold again"
        ) from error
    if state["config_hash"] != config_hash:
        raise RuntimeError(
            f"{path} was written by another config or dataset; delete {path.parent} to train "
            "the fold again, or choose another --out"
        )
    return Checkpoint(Position(state["epoch"], state["step"], state["elapsed_s"]), state)


@dataclass(frozen=True)
class BestNote:
    """What `best.safetensors` says of its weights: best after `epoch`, from 1, on such input."""

    config_hash: str
    fold: int
    epoch: int
    normalisation: Normalisation


def save_best(path: Path, network: nn.Module, note: BestNote) -> None:
    """Write weights as safetensors (contiguous, on the CPU), whole or not at all."""
    tensors = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
    said = {
        "config_hash": note.config_hash,
        "fold": str(note.fold),
        "epoch": str(note.epoch),
        **vars(note.normalisation),
    }
    # One entry only: safetensors writes several in an order that changes from process to process.
    entry = {"roomsmith": json.dumps(said, sort_keys=True)}
    with whole_file(path) as temporary:
        # Not save_file, whose files only their owner may read (mode 600).
        temporary.write_bytes(save(tensors, metadata=entry))


def write_metrics(path: Path, lines: Sequence[EpochLine]) -> None:
    """Write one JSON line an epoch, whole or not at all."""
    text = [json.dumps(line.to_json(), allow_nan=False) for line in lines]
    write_text(path, "".join(f"{line}\n" for line in text))


def read_metrics(path: Path, epochs: int) -> list[EpochLine]:
    """The first `epochs` lines; a damaged one is a ValueError that names the file."""
    lines = path.read_text(encoding="utf-8").splitlines()[:epochs] if epochs else []
    return [EpochLine.parse(line, path) for line in lines]


def best_line(lines: Sequence[EpochLine]) -> EpochLine:
    """The line of the first epoch that reached the highest validation mIoU."""
    return max((line for line in lines if line.miou is not None), key=lambda line: line.miou or 0.0)


EPOCH_HEADER = (
    "fold  epoch     lr        loss    seg   depth   mIoU    acc   train     val  fold left"
)


def epoch_row(fold: int, metrics: Sequence[EpochLine], epochs: int) -> str:
    """One row of the epoch table, under `EPOCH_HEADER`; the last of `metrics` was trained."""
    line = metrics[-1]
    spent_s = sum(past.train_s + past.validation_s for past in metrics)
    left_s = spent_s / len(metrics) * (epochs - len(metrics))
    scores = "     -      -" if line.miou is None else f"{line.miou:.4f} {line.pixel_acc:.4f}"
    return (
        f"{fold:4d} {line.epoch:3d}/{epochs:<3d} {line.lr:.2e} {line.loss:7.4f} "
        f"{line.segmentation_loss:6.4f} {line.depth_loss:6.4f} {scores} "
        f"{line.train_s:6.1f}s {line.validation_s:6.1f}s  {duration(left_s)}"
    )
