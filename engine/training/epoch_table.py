"""The lines of `metrics.jsonl` as a table that grows by a row an epoch."""

from collections.abc import Sequence
from typing import Any

from engine.runtime.progress import duration

EPOCH_HEADER = (
    "fold  epoch     lr        loss    seg   depth   mIoU    acc   train     val  fold left"
)


def best_line(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The line of the first epoch that reached the highest validation mIoU; {} before one."""
    validated = [line for line in metrics if "miou" in line]
    return max(validated, key=lambda line: line["miou"], default={})


def epoch_row(fold: int, metrics: Sequence[dict[str, Any]], epochs: int) -> str:
    """One row of the epoch table, under `EPOCH_HEADER`."""
    line = metrics[-1]
    spent_s = sum(past["train_s"] + past["validation_s"] for past in metrics)
    left_s = spent_s / len(metrics) * (epochs - len(metrics))
    scores = f"{line['miou']:.4f} {line['pixel_acc']:.4f}" if "miou" in line else "     -      -"
    return (
        f"{fold:4d} {line['epoch']:3d}/{epochs:<3d} {line['lr']:.2e} {line['loss']:7.4f} "
        f"{line['segmentation_loss']:6.4f} {line['depth_loss']:6.4f} {scores} "
        f"{line['train_s']:6.1f}s {line['validation_s']:6.1f}s  {duration(left_s)}"
    )
