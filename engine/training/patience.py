"""Early stopping: a fold ends where its validations have not become better for a while.

Every process of a training has the same lines and scores, and so comes to the same end.
"""

import logging
from collections.abc import Mapping, Sequence

from engine.config import TrainingConfig
from engine.training.records import EpochLine

_log = logging.getLogger(__name__)


def is_over(lines: Sequence[EpochLine]) -> bool:
    """Whether a fold was ended after its last line."""
    return bool(lines and lines[-1].stopped_early)


def end_of(
    training: TrainingConfig, lines: Sequence[EpochLine], scores: Mapping[str, float], epoch: int
) -> dict[str, bool]:
    """What is added to an epoch's line: `stopped_early`, if the fold ends with it, else nothing.

    It does after `training.patience` validations in a row without a higher mIoU than before. The
    last epoch needs no such end.

    Args:
        training: the experiment's.
        lines: of the epochs before.
        scores: what the epoch's validation measured; empty where there was none.
        epoch: its number, from 1.
    """
    if not training.patience or "miou" not in scores or epoch == training.epochs:
        return {}
    best, since = -1.0, 0
    for miou in [*(line.miou for line in lines if line.miou is not None), scores["miou"]]:
        best, since = (miou, 0) if miou > best else (best, since + 1)
    return {"stopped_early": True} if since >= training.patience else {}


def tell_end(fold: int, training: TrainingConfig, lines: Sequence[EpochLine]) -> None:
    """Say after which epoch a fold was ended, and why; nothing of one that goes on."""
    if is_over(lines):
        best = max(lines, key=lambda line: -1.0 if line.miou is None else line.miou)
        _log.info(
            "fold %d ends after epoch %d of %d: training.patience = %d, and its best mIoU, %.4f, "
            "is that of epoch %d",
            *(fold, lines[-1].epoch, training.epochs, training.patience, best.miou, best.epoch),
        )
