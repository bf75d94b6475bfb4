"""Choosing on out-of-fold predictions with NumPy, OpenCV and SciPy.

Axes: N frames, M runs, T temperatures, C classes, H W pixels of a label, h w of a stored map.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from engine.nyuv2 import IGNORE_INDEX

GRID = 101
"""Weights of a blend that are tried: every hundredth."""

Stores = Sequence[NDArray[np.floating[Any]]]
"""M arrays (N, C, h, w) of probabilities."""

Mask = NDArray[np.uint8]
"""Classes (H, W), 255 = ignore."""

Counts = NDArray[np.int64]
"""Pixels by truth and prediction."""

Labels = Sequence[Mask]
"""N labels (H, W), 255 = ignore."""


def resized(map_HWC: NDArray[Any], hw: Sequence[int]) -> NDArray[Any]:
    """Bilinear resizing by OpenCV, its default."""
    out_HWC: NDArray[Any] = cv2.resize(np.ascontiguousarray(map_HWC), (hw[1], hw[0]))
    return out_HWC


def confusion(prediction_HW: Mask, label_HW: Mask, classes: int) -> Counts:
    """(C, C) counts, rows = truth; ignored pixels do not count."""
    valid_HW = label_HW != IGNORE_INDEX
    pair_N = label_HW[valid_HW].astype(np.int64) * classes + prediction_HW[valid_HW]
    return np.bincount(pair_N, minlength=classes * classes).reshape(classes, classes)


def mean_iou(count_CC: NDArray[np.int64]) -> float:
    """Mean over the classes that occur in truth or prediction."""
    hit_C = np.diag(count_CC).astype(np.float64)
    union_C = count_CC.sum(0) + count_CC.sum(1) - hit_C
    return float((hit_C[union_C > 0] / union_C[union_C > 0]).mean()) if union_C.any() else 0.0


def blend_counts(stores_M: Stores, labels_N: Labels, weights_KM: NDArray[np.float64]) -> Counts:
    """(K, C, C) counts of the blends by each row of weights; every map is upsampled once."""
    classes = stores_M[0].shape[1]
    count_KCC = np.zeros((len(weights_KM), classes, classes), np.int64)
    for n, label_HW in enumerate(labels_N):
        small_M = [store[n].astype(np.float32).transpose(1, 2, 0) for store in stores_M]
        full_M = [resized(small_hwC, label_HW.shape) for small_hwC in small_M]
        for k, weight_M in enumerate(weights_KM.astype(np.float32)):
            parts_M = (weight * full_HWC for weight, full_HWC in zip(weight_M, full_M, strict=True))
            mixed_HWC = functools.reduce(operator.iadd, parts_M)
            count_KCC[k] += confusion(mixed_HWC.argmax(2).astype(np.uint8), label_HW, classes)
    return count_KCC


def grid_weights(stores_M: Stores, labels_N: Labels) -> tuple[Any, float]:
    """The best of 101 weights of the last run, (M,), and its mIoU; the others share the rest.

    Of two runs it is the published grid.
    """
    last_K1, others = np.linspace(0, 1, GRID)[:, None], len(stores_M) - 1
    weights_KM = np.hstack([np.repeat((1 - last_K1) / others, others, axis=1), last_K1])
    miou_K = [mean_iou(count_CC) for count_CC in blend_counts(stores_M, labels_N, weights_KM)]
    best = int(np.argmax(miou_K))
    return weights_KM[best], miou_K[best]


def slsqp_weights(stores_M: Stores, labels_N: Labels) -> tuple[Any, float]:
    """SLSQP on the out-of-fold mIoU from equal weights, as the published ensemble does.

    The mIoU is constant between the points where a pixel's winner changes, so the finite
    differences that SLSQP takes for a gradient are mostly zero.
    """

    def loss(weight_M: NDArray[np.float64]) -> float:
        return -mean_iou(blend_counts(stores_M, labels_N, weight_M[None])[0])

    equal_M = np.full(len(stores_M), 1 / len(stores_M))
    unit_sum = {"type": "eq", "fun": lambda weight_M: weight_M.sum() - 1}
    found = scipy.optimize.minimize(
        loss, equal_M, method="SLSQP", bounds=[(0, 1)] * len(stores_M), constraints=[unit_sum]
    )
    return found.x, -float(found.fun)
