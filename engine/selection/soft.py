"""Blend weights by SLSQP: on the soft mIoU, and on the mIoU itself as the published ensemble did.

Axes: M models, C class; 2: probability summed over the pixels of the class, and over all.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from engine.rundir import Record
from engine.selection.counts import confusion_at
from engine.selection.pixels import OofPixels, shared
from kernels.metrics import mean_iou

Array = NDArray[np.float64]


def soft_miou(weight_M: Array, total_2MC: Array, truth_C: NDArray[np.int64]) -> tuple[float, Array]:
    """Mean IoU of probabilities instead of winners, and its gradient.

    The soft intersection of a class is the blended probability summed over its pixels, its soft
    prediction that summed over all pixels. Both are linear in the weights, so a pass over the
    pixels is needed only for `total_2MC`.

    Args:
        weight_M: (M,) weights.
        total_2MC: what `OofPixels.soft_counts` gives.
        truth_C: (C,) pixels by true class; classes without any do not count.

    Returns:
        The soft mIoU and its (M,) derivatives.
    """
    present_C = truth_C > 0
    hit_MC, all_MC = total_2MC[:, :, present_C]
    hit_C, all_C = weight_M @ hit_MC, weight_M @ all_MC
    union_C = truth_C[present_C] + all_C - hit_C
    gradient_MC = (hit_MC * union_C - hit_C * (all_MC - hit_MC)) / union_C**2
    return float((hit_C / union_C).mean()), gradient_MC.mean(axis=1)


def maximise_soft(total_2MC: Array, truth_C: NDArray[np.int64]) -> Array:
    """(M,) weights on the simplex by SLSQP with the analytic gradient, from equal weights."""

    def negative(weight_M: Array) -> tuple[float, Array]:
        value, gradient_M = soft_miou(weight_M, total_2MC, truth_C)
        return -value, -gradient_M

    weight_M, _ = _slsqp(negative, total_2MC.shape[1], jac=True)
    return weight_M


class PlainSearch(Record):
    """What SciPy ended with on the mIoU itself."""

    weights: list[float]
    """Of M models."""
    miou: float
    evaluations: int
    """Passes over the pixels."""
    message: str


def maximise_plainly(pixels: OofPixels) -> PlainSearch:
    """SLSQP on the mIoU itself, with SciPy's finite differences, from equal weights.

    Each evaluation is a pass over the pixels. The mIoU is piecewise constant, so its differences
    over a step of 1e-8 are almost always 0.
    """
    calls = 0

    def negative(weight_M: Array) -> float:
        nonlocal calls
        calls += 1
        return -mean_iou(confusion_at(pixels, shared(weight_M, pixels.classes)))

    weight_M, message = _slsqp(negative, pixels.models)
    miou = -negative(weight_M)
    return PlainSearch(weights=weight_M.tolist(), miou=miou, evaluations=calls, message=message)


def _slsqp(
    negative: Callable[[Array], Any], models: int, *, jac: bool = False
) -> tuple[Array, str]:
    result = minimize(
        negative,
        np.full(models, 1 / models),
        jac=jac or None,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * models,
        constraints={"type": "eq", "fun": lambda weight_M: weight_M.sum() - 1, "jac": np.ones_like},
    )
    weight_M = np.clip(result.x, 0, 1)
    return weight_M / weight_M.sum(), str(result.message)
