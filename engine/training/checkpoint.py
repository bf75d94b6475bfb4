"""What a fold leaves: its exact state (`last.pt`), its best average, and a line an epoch."""

import json
import logging
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils._pytree import tree_leaves

from engine import sums
from engine.config import Config
from engine.damage import DamageError
from engine.extended import hashes_before
from engine.lease import clear, hold
from engine.rundir import RunDir
from engine.training import curves
from engine.training.faults import of_another_config, short_metrics, unreadable
from engine.training.records import BestNote, Checkpoint, EpochLine, Position
from engine.training.step import Learner
from engine.whole import discard, whole_file, write_summed

_log = logging.getLogger(__name__)


def checkpoint_of(config_hash: str, position: Position, learner: Learner) -> Checkpoint:
    """Everything that training continues from: the learner's own tensors, not copies of them."""
    state = {
        "config_hash": config_hash,
        **vars(position),
        "network": learner.network.state_dict(),
        "ema": learner.ema.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "sums": learner.sums.sums,
    }
    return Checkpoint(position, state)


def save_last(path: Path, saved: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all; a full disk is a DiskFullError."""
    tensors = (leaf for leaf in tree_leaves(saved.content) if isinstance(leaf, Tensor))
    needed = sum(tensor.nbytes for tensor in tensors)
    with whole_file(path, summed=True, needed=needed) as temporary:
        torch.save(saved.content, temporary)


def load_last(path: Path, config_hash: str, before: Container[str] = ()) -> Checkpoint | None:
    """What `save_last` wrote, or None.

    A damaged file is a DamageError, one that another config wrote a RuntimeError, unless its hash
    is of those `before` the run was extended.
    """
    try:
        sums.check(path)  # torch checks nothing: 299 of 300 flipped bits were loaded without a word
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:  # never there, or another process has finished the run just now
        return None
    except (RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
        raise unreadable(path, error) from error
    if state["config_hash"] != config_hash and state["config_hash"] not in before:
        raise of_another_config(path)
    return Checkpoint(Position(state["epoch"], state["step"], state["elapsed_s"]), state)


def position_of(run: RunDir, fold: int, epochs: int, config_hash: str) -> Position | None:
    """Where an earlier call left a fold that is trained for `epochs`; None if it never saved.

    Where `last.pt` is gone, as of a finished run, a line of each epoch tells that it was trained to
    its last one: the best weights were written before that line. Raises as `load_last` and
    `read_metrics`.
    """
    earlier = hashes_before(run)
    saved = load_last(run.last(fold), config_hash, earlier)
    if saved is not None:
        return saved.position
    path, best = run.metrics(fold), run.best(fold)
    if not path.is_file():
        if best.exists() and run.manifest.exists():  # all folds were trained, this one too
            raise DamageError(path, "it is gone")
        return None
    lines = max(epochs, 1)  # weights that are taken as they are have one
    if len(sums.read(path, longer=True).splitlines()) < lines:
        return None
    read_metrics(path, lines)
    if best.exists() and _written_by(best) not in (None, config_hash, *earlier):
        raise of_another_config(best)
    return Position(epochs)


def forget(config: Config, run: RunDir) -> None:
    """Delete what only training would go on from, unless `runtime.keep_last`; before the seal."""
    folds = range(config.networks)
    if not config.runtime.keep_last and (size := discard_last(run, folds)):
        told = "all is trained, each last.pt deleted: %.0f MiB (runtime.keep_last keeps it)"
        _log.info(told, size / (1 << 20))
    for fold in folds:
        clear(run.training(fold))  # of who died between a fold's last file and its end


def discard_last(run: RunDir, folds: Sequence[int]) -> int:
    """Delete what trained folds went on from; the bytes that it took."""
    size = 0
    for fold in folds:
        if (path := run.last(fold)).exists():
            size += path.stat().st_size
            with hold(run.training(fold), wait=True):
                discard(path)
    return size


def save_best(path: Path, weights: Mapping[str, Tensor], note: BestNote) -> None:
    """Write weights as safetensors (contiguous, on the CPU), whole or not at all."""
    tensors = {key: value.contiguous().cpu() for key, value in weights.items()}
    said = {"config_hash": note.config_hash, "fold": str(note.fold), "epoch": str(note.epoch)}
    # One entry only: safetensors writes several in an order that changes from process to process.
    entry = {"roomsmith": json.dumps({**said, **vars(note.normalisation)}, sort_keys=True)}
    content = save(tensors, metadata=entry)
    with whole_file(path, summed=True, needed=len(content)) as temporary:
        # Not save_file, whose files only their owner may read (mode 600).
        temporary.write_bytes(content)


def finish() -> None:
    """Wait until all files stand: here each does when its function returns."""


def write_metrics(path: Path, lines: Sequence[EpochLine]) -> None:
    """Write one JSON line an epoch, whole or not at all."""
    text = [json.dumps(line.to_json(), allow_nan=False) for line in lines]
    write_summed(path, "".join(f"{line}\n" for line in text))


def write_curves(run: RunDir) -> None:
    """Write `metrics.csv`, see `engine.training.curves`."""
    curves.write_curves(run)


def read_metrics(path: Path, epochs: int) -> list[EpochLine]:
    """The first `epochs` lines; damage to them is a ValueError that names file and line.

    What follows the text that was written is not looked at.
    """
    lines = path.read_bytes().splitlines()[:epochs] if epochs else []
    found = [EpochLine.parse(line, path, f"line {n}, ") for n, line in enumerate(lines, 1)]
    if len(found) < epochs:
        raise short_metrics(path, len(found), epochs)
    if epochs:
        sums.read(path, longer=True)
    return found


def _written_by(best: Path) -> str | None:
    """The config hash in a file of `save_best`; None if it is none, or not whole."""
    try:
        with safe_open(best, framework="np") as file:
            said = json.loads((file.metadata() or {}).get("roomsmith", "{}"))
    except (OSError, SafetensorError):
        return None
    return str(said["config_hash"]) if "config_hash" in said else None


EPOCH_HEADER = (
    "fold  epoch     lr        loss    seg   depth  valid   mIoU    acc   train     val  left"
)


def epoch_row(fold: int, line: EpochLine, epochs: int, left: str) -> str:
    """One row of the epoch table, under `EPOCH_HEADER`, of an epoch that was trained."""
    scores = "     -      -" if line.miou is None else f"{line.miou:.4f} {line.pixel_acc:.4f}"
    valid = "     -" if line.validation_loss is None else f"{line.validation_loss:6.4f}"
    return (
        f"{fold:4d} {line.epoch:3d}/{epochs:<3d} {line.lr:.2e} {line.loss:7.4f} "
        f"{line.segmentation_loss:6.4f} {line.depth_loss:6.4f} {valid} {scores} "
        f"{line.train_s:6.1f}s {line.validation_s:6.1f}s  {left}"
    )
