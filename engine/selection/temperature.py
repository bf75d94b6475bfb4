"""The softmax temperature with the best out-of-fold mIoU.

Axes: K folds, T temperatures, C classes (truth by prediction).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.confusion import mean_iou, pixel_accuracy


def total_confusion(predicted: Mapping[str, Mapping[str, Any]]) -> NDArray[np.int64]:
    """(T, C, C) counts summed over the folds of a store's `predicted` states."""
    counts = [np.array(state["confusion"], np.int64) for state in predicted.values()]
    total: NDArray[np.int64] = np.sum(counts, axis=0)
    return total


def choose_temperature(
    temperatures: Sequence[float], count_TCC: NDArray[np.int64], fixed: float | None
) -> dict[str, Any]:
    """Score every temperature and choose one.

    Args:
        temperatures: T softmax temperatures.
        count_TCC: (T, C, C) confusion over all out-of-fold pixels.
        fixed: choose this one whatever its score; None = the highest mIoU (the first of equals).

    Returns:
        `{"best", "index", "chosen_by", "scores": [{"temperature", "miou", "pixel_acc"}]}`.
    """
    scores = [
        {
            "temperature": temperature,
            "miou": mean_iou(count_CC),
            "pixel_acc": pixel_accuracy(count_CC),
        }
        for temperature, count_CC in zip(temperatures, count_TCC, strict=True)
    ]
    if fixed is None:
        index = max(range(len(scores)), key=lambda t: scores[t]["miou"])
    else:
        index = list(temperatures).index(fixed)
    return {
        "best": temperatures[index],
        "index": index,
        "chosen_by": "oof miou" if fixed is None else "config",
        "scores": scores,
    }
