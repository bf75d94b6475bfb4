"""What out-of-fold counts say: the scores, the best temperature, the frames that stand together.

Axes: C class (truth by prediction), F folds, T temperatures, N frames.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.selection.calibration import calibration_of, why_not
from engine.selection.records import Groups, OofScores, Scores, TemperatureChoice, TemperatureScore
from engine.views.records import CalibrationCounts
from kernels.metrics import class_iou, mean_iou, pixel_accuracy

if TYPE_CHECKING:
    from engine.frames.decode import Sample

_log = logging.getLogger(__name__)

FRAMES_PER_BLOCK = 20
"""Frames of a group where no scenes are known: blocks of neighbours stand for frames that depend on
one another (Kuensch, "The Jackknife and the Bootstrap for General Stationary Observations", Annals
of Statistics 17, 1989). Measured on 795 out-of-fold frames of NYU Depth v2: the accuracy of
neighbours correlates by 0.33, of frames 10 to 20 apart still by 0.15; the bootstrap's standard
deviation of mIoU is 0.0077 by frames, 0.0096, 0.0108 and 0.0113 by blocks of 10, 20 and 40."""

Counts = NDArray[np.int64]


def score(count_CC: Counts) -> Scores:
    """The scores of (C, C) counts."""
    return Scores(miou=mean_iou(count_CC), pixel_acc=pixel_accuracy(count_CC))


def score_folds(
    counts: Mapping[int, Counts], classes: Sequence[str], temperature: float | None
) -> OofScores:
    """The scores of the (C, C) counts of all folds together."""
    count_CC = np.sum(list(counts.values()), axis=0)
    return OofScores(
        **dict(score(count_CC)),
        temperature=temperature,
        iou=by_class(classes, class_iou(count_CC)),
        confusion=count_CC.tolist(),
    )


def choose_temperature(
    temperatures: Sequence[float], count_FTCC: Counts, fixed: float | None
) -> TemperatureChoice:
    """Score T softmax temperatures by the (F, T, C, C) out-of-fold counts of each fold; choose one.

    It is `fixed` whatever its score; None = that of the highest mIoU (the first of equals).
    """
    scores = [
        TemperatureScore(temperature=temperature, **dict(score(count_CC)))
        for temperature, count_CC in zip(temperatures, count_FTCC.sum(axis=0), strict=True)
    ]
    best = max(scores, key=lambda one: one.miou).temperature if fixed is None else fixed
    return TemperatureChoice(
        best=best,
        index=list(temperatures).index(best),
        chosen_by="oof miou" if fixed is None else "config",
        scores=scores,
    )


def calibrated(
    choice: TemperatureChoice, counts: Mapping[int, CalibrationCounts | None]
) -> TemperatureChoice:
    """The choice with the calibration at its temperatures; what it lacks of a fold is logged.

    `counts` are those of each fold; None of one that an older release predicted.
    """
    parts = [part for _, part in sorted(counts.items())]
    found = calibration_of([one.temperature for one in choice.scores], parts)
    if found is None:
        _log.info("NLL and ECE are not measured: %s", why_not(counts))
        return choice
    return choice.model_copy(update={"calibration": found})


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
