"""What out-of-fold counts say: the scores, the best temperature, the frames that stand together.

Axes: C class (truth by prediction), F folds, T temperatures, N frames.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from engine.rundir import Record
from kernels.metrics import class_iou, mean_iou, pixel_accuracy

if TYPE_CHECKING:
    from engine.frames.decode import Sample

FRAMES_PER_BLOCK = 20
"""Frames of a group where no scenes are known: blocks of neighbours stand for frames that depend on
one another (Kuensch, "The Jackknife and the Bootstrap for General Stationary Observations", Annals
of Statistics 17, 1989). Measured on 795 out-of-fold frames of NYU Depth v2: the accuracy of
neighbours correlates by 0.33, of frames 10 to 20 apart still by 0.15; the bootstrap's standard
deviation of mIoU is 0.0077 by frames, 0.0096, 0.0108 and 0.0113 by blocks of 10, 20 and 40."""

Counts = NDArray[np.int64]

Figure = Annotated[
    float | None, AfterValidator(lambda x: None if x is None or math.isnan(x) else x)
]
"""A score of a part; None where there is no pixel to count, as JSON knows no NaN."""


class Scores(Record):
    """Mean IoU and pixel accuracy of one confusion matrix."""

    miou: float
    pixel_acc: float

    @classmethod
    def of(cls, count_CC: Counts) -> "Scores":
        """Of (C, C) counts."""
        return Scores(miou=mean_iou(count_CC), pixel_acc=pixel_accuracy(count_CC))


class OofScores(Scores):
    """What the out-of-fold predictions of all frames reach."""

    temperature: float | None
    """Softmax temperature; None for a blend of runs that have different ones."""
    iou: dict[str, Figure]
    """By class."""
    confusion: list[list[int]]
    """(C, C) pixels."""

    @classmethod
    def of_folds(
        cls, counts: Mapping[int, Counts], classes: Sequence[str], temperature: float | None
    ) -> "OofScores":
        """Of the (C, C) counts of all folds together."""
        count_CC = np.sum(list(counts.values()), axis=0)
        return OofScores(
            **dict(Scores.of(count_CC)),
            temperature=temperature,
            iou=by_class(classes, class_iou(count_CC)),
            confusion=count_CC.tolist(),
        )


class FoldScore(Record):
    """What one fold's validation frames reach; the rest is left out for a blend."""

    fold: int
    miou: float
    best_epoch: int | None = None
    """The epoch that its weights are from."""
    validation_miou: float | None = None
    """What that epoch's validation measured, by a single view."""


class TemperatureScore(Record):
    """What one temperature reaches on all out-of-fold pixels."""

    temperature: float
    miou: float
    pixel_acc: float


class TemperatureChoice(Record):
    """`temperature.json`: the temperature of the store and of new frames."""

    best: float
    index: int
    """Its place in `inference.temperatures`."""
    chosen_by: Literal["oof miou", "config"]
    scores: list[TemperatureScore]


class Groups(Record):
    """Which frames an interval draws together."""

    kind: str
    """"scene" (scenes.csv) or "block" (neighbouring frames)."""
    count: int
    of: list[int]
    """The group, 0 .. count - 1, of each of N frames."""


def choose_temperature(
    temperatures: Sequence[float], count_FTCC: Counts, fixed: float | None
) -> TemperatureChoice:
    """Score T softmax temperatures by the (F, T, C, C) out-of-fold counts of each fold; choose one.

    It is `fixed` whatever its score; None = that of the highest mIoU (the first of equals).
    """
    scores = [
        TemperatureScore(temperature=temperature, **dict(Scores.of(count_CC)))
        for temperature, count_CC in zip(temperatures, count_FTCC.sum(axis=0), strict=True)
    ]
    best = max(scores, key=lambda score: score.miou).temperature if fixed is None else fixed
    return TemperatureChoice(
        best=best,
        index=list(temperatures).index(best),
        chosen_by="oof miou" if fixed is None else "config",
        scores=scores,
    )


def by_class(classes: Sequence[str], value_C: NDArray[np.float64]) -> dict[str, float]:
    """A value of each class under its name."""
    return dict(zip(classes, value_C.tolist(), strict=True))


def group_of(samples: Sequence["Sample"]) -> Groups:
    """The scenes if every one of N >= 1 frames has one, else blocks of about `FRAMES_PER_BLOCK`.

    Groups do not depend on the folds, so that runs with any folds have the same.
    """
    # Not to show a finished run: it loads PyTorch.
    from engine.data.folds import contiguous_blocks

    scenes = [sample.scene for sample in samples if sample.scene is not None]
    if len(scenes) == len(samples):
        kind, of_N = "scene", np.unique(scenes, return_inverse=True)[1]
    else:
        blocks = max(1, len(samples) // FRAMES_PER_BLOCK)
        kind, of_N = "block", contiguous_blocks(samples, blocks)
    return Groups(kind=kind, count=int(of_N.max()) + 1, of=of_N.tolist())
