"""How far a fold is and which epoch is its last one, by its lines; loads no PyTorch.

A line may be ahead of the checkpoint: killed between the two, a fold lacks a few steps more.
"""

import json

from engine.rundir import RunDir
from engine.settings import TrainingConfig


def epochs_of(run: RunDir, fold: int) -> int:
    """Epochs of a fold that have a line in `metrics.jsonl`."""
    return len(_lines(run, fold))


def last_epoch(run: RunDir, fold: int, training: TrainingConfig) -> int:
    """The epoch after which a fold is trained: `training.epochs`, unless its patience ended it."""
    lines = _lines(run, fold) if training.patience else []
    return len(lines) if lines and _is_end(lines[-1]) else training.epochs


def is_trained(run: RunDir, fold: int, training: TrainingConfig) -> bool:
    """Whether a fold has the line of its last epoch; weights that are taken as they are, theirs."""
    return epochs_of(run, fold) >= max(last_epoch(run, fold, training), 1)


def _lines(run: RunDir, fold: int) -> list[bytes]:
    path = run.metrics(fold)
    return path.read_bytes().splitlines() if path.is_file() else []


def _is_end(line: bytes) -> bool:
    """Whether `EpochLine.stopped_early` is said; what is damaged says nothing."""
    try:
        said = json.loads(line)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("stopped_early") is True
