"""The softmax temperature with the best out-of-fold mIoU.

Axes: F folds, T temperatures, C classes (truth by prediction).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.rundir import Record
from engine.selection.scores import Scores


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


def choose_temperature(
    temperatures: Sequence[float], count_FTCC: NDArray[np.int64], fixed: float | None
) -> TemperatureChoice:
    """Score every temperature and choose one.

    Args:
        temperatures: T softmax temperatures.
        count_FTCC: (F, T, C, C) confusion over the out-of-fold pixels of each fold.
        fixed: choose this one whatever its score; None = the highest mIoU (the first of equals).
    """
    scores = [
        TemperatureScore(temperature=temperature, **dict(Scores.of(count_CC)))
        for temperature, count_CC in zip(temperatures, count_FTCC.sum(axis=0), strict=True)
    ]
    if fixed is None:
        index = max(range(len(scores)), key=lambda t: scores[t].miou)
    else:
        index = list(temperatures).index(fixed)
    return TemperatureChoice(
        best=temperatures[index],
        index=index,
        chosen_by="oof miou" if fixed is None else "config",
        scores=scores,
    )
