"""The scores that several files share, read off confusion matrices.

Axes: C class (truth by prediction).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from engine.rundir import Record
from kernels.metrics import class_iou, mean_iou, pixel_accuracy


def _without_nan(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


Figure = Annotated[float | None, AfterValidator(_without_nan)]
"""A score of a part; None where there is no pixel to count, as JSON knows no NaN."""


class Scores(Record):
    """Mean IoU and pixel accuracy of one confusion matrix."""

    miou: float
    pixel_acc: float

    @classmethod
    def of(cls, count_CC: NDArray[np.int64]) -> "Scores":
        """Read them off (C, C) counts."""
        return Scores(miou=mean_iou(count_CC), pixel_acc=pixel_accuracy(count_CC))


class OofScores(Scores):
    """What the out-of-fold predictions of all frames reach."""

    temperature: float | None
    """Softmax temperature; None for a blend of runs that have different ones."""
    iou: dict[str, Figure]
    """IoU by class."""
    confusion: list[list[int]]
    """(C, C) pixels."""


class FoldScore(Record):
    """What one fold's validation frames reach."""

    fold: int
    miou: float
    best_epoch: int | None = None
    """The epoch that its weights are from; left out for a blend."""
    validation_miou: float | None = None
    """What that epoch's validation measured, by a single view; left out for a blend."""


def oof_scores(
    counts: Mapping[int, NDArray[np.int64]], classes: Sequence[str], temperature: float | None
) -> OofScores:
    """The scores of all folds together.

    Args:
        counts: (C, C) by fold.
        classes: C class names.
        temperature: that of the predictions, if they have one in common.
    """
    count_CC = np.sum(list(counts.values()), axis=0)
    return OofScores(
        miou=mean_iou(count_CC),
        pixel_acc=pixel_accuracy(count_CC),
        temperature=temperature,
        iou=by_class(classes, class_iou(count_CC)),
        confusion=count_CC.tolist(),
    )


def by_class(classes: Sequence[str], value_C: NDArray[np.float64]) -> dict[str, float]:
    """A value of each class under its name."""
    return dict(zip(classes, value_C.tolist(), strict=True))
