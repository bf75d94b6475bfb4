"""Counting blends on the CPU: many candidate weights for little more than the cost of one.

Most pixels need no blending: where every model has the same winner, so has every blend with
non-negative weights. For two models the others are cheap too: sorted by the share of the second,
the candidates fall into a few segments of one winner each (cpu_envelope.py). Where a segment begins
its class gains a pixel and the one before loses it, from there on; running sums turn these notes
into counts. So a pixel costs as much as it has segments, not candidates.

Axes: K candidates, M models, C class, H W pixels of the labels, h w pixels of the probabilities,
J tasks, Q tables, P pairs (truth, prediction), n the pixels of a row whose winner is not settled.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.confusion.cpu_envelope import walk
from kernels.confusion.cpu_rows import (
    TABLES,
    add_up,
    compiled,
    mix,
    pairs,
    parallel,
    tally,
    taps,
    widen,
    winners,
)

STRIP = 32
"""Rows of labels a task: enough that adding up the notes of 64 candidates costs little."""

Array = NDArray[Any]


class Models(NamedTuple):
    """Where each model's probabilities are and how they are resized, an element or row for each."""

    start: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    above: NDArray[np.uint32]
    below: NDArray[np.uint32]
    down: Array
    left: NDArray[np.uint32]
    right: NDArray[np.uint32]
    across: Array


def count_blends(
    prob: Array,
    hw_M: Sequence[tuple[int, int]],
    weight_KM: Array,
    label_HW: NDArray[np.uint8],
    classes: int,
) -> NDArray[np.int64]:
    """(K, C, C) counts of the blends of one image.

    Args:
        prob: 1-D float32 or float64: (C, h, w) of each model, one after another.
        hw_M: height and width of each model's probabilities.
        weight_KM: (K, M) of the same dtype, K and M at least 1.
        label_HW: (H, W) C-contiguous; values from `classes` on do not count.
        classes: number of classes C, 1 .. 255.
    """
    K, M = weight_KM.shape
    models = _models(hw_M, label_HW.shape, classes, prob.dtype)
    count_JKCC = np.empty((-(-len(label_HW) // STRIP), K, classes, classes), np.int64)
    total_K = weight_KM.sum(axis=1)
    # What is said above does not hold for weights that are negative or all 0.
    proper = bool((weight_KM >= 0).all() and (total_K > 0).all())
    if M == 2 and proper:
        share_K = weight_KM[:, 1] / total_K
        order_K = np.argsort(share_K, kind="stable")
        ends_2M = weight_KM[order_K[[0, -1]]]
        _count_segments(prob, models, share_K[order_K], order_K, ends_2M, label_HW, count_JKCC)
    else:
        _count_each(prob, models, weight_KM, proper and K > M, label_HW, count_JKCC)
    count_KCC: NDArray[np.int64] = count_JKCC.sum(axis=0)
    return count_KCC


def _models(
    hw_M: Sequence[tuple[int, int]], label_hw: tuple[int, ...], classes: int, dtype: np.dtype[Any]
) -> Models:
    height_M, width_M = np.array(hw_M, np.int64).T.copy()
    stop_M = np.cumsum(classes * height_M * width_M)
    down = [taps(label_hw[0], h, dtype) for h, _ in hw_M]
    across = [taps(label_hw[1], w, dtype) for _, w in hw_M]
    rows = [np.stack(part) for along in (down, across) for part in zip(*along, strict=True)]
    return Models(stop_M - classes * height_M * width_M, height_M, width_M, *rows)


@parallel
def _count_segments(
    prob: Array,
    models: Models,
    share_K: Array,
    order_K: NDArray[np.int64],
    ends_2M: Array,
    label_HW: NDArray[np.uint8],
    count_JKCC: NDArray[np.int64],
) -> None:
    tasks, K, C, _ = count_JKCC.shape
    H, W = label_HW.shape
    for task in numba.prange(tasks):
        note_CCK = np.zeros((C, C, K), np.int32)
        table_QP = np.zeros((TABLES, (C + 1) ** 2), np.uint32)
        pair_W = np.empty(W, np.uint16)
        prob_2CW = np.empty((2, C, W), prob.dtype)
        blend_CW = np.empty((C, W), prob.dtype)
        largest_W = np.empty(W, prob.dtype)
        first_W, last_W = np.empty(W, np.int32), np.empty(W, np.int32)
        start_CC = np.empty((C, C), np.int64)
        for y in range(task * STRIP, min(task * STRIP + STRIP, H)):
            _resize_row(prob_2CW, prob, models, y)
            _blend(blend_CW, prob_2CW, ends_2M[0])
            winners(first_W, largest_W, blend_CW)
            pairs(pair_W, first_W.astype(np.uint8), label_HW[y], C)
            tally(table_QP, pair_W)
            if K > 1:
                _blend(blend_CW, prob_2CW, ends_2M[1])
                winners(last_W, largest_W, blend_CW)
                at_n = np.nonzero((first_W != last_W) & (label_HW[y] < C))[0]
                prob_2Cn = _select(prob_2CW, at_n)
                walk(note_CCK, share_K, prob_2Cn, label_HW[y][at_n], first_W[at_n], last_W[at_n])
        add_up(start_CC, table_QP)
        _run_up(count_JKCC[task], order_K, start_CC, note_CCK)


@compiled
def _resize_row(prob_MCW: Array, prob: Array, models: Models, y: int) -> None:
    """Row `y` of every model at the labels' size."""
    C = prob_MCW.shape[1]
    for m in range(len(prob_MCW)):
        h, w = models.height[m], models.width[m]
        row_Cw = np.empty((C, w), prob.dtype)
        for c in range(C):
            plane = models.start[m] + c * h * w
            above, below = plane + models.above[m, y] * w, plane + models.below[m, y] * w
            mix(row_Cw[c], prob[above : above + w], prob[below : below + w], models.down[m, y])
        widen(prob_MCW[m], row_Cw, models.left[m], models.right[m], models.across[m])


@compiled
def _blend(blend_CW: Array, prob_MCW: Array, weight_M: Array) -> None:
    for c in range(blend_CW.shape[0]):
        for x in range(blend_CW.shape[1]):
            blend_CW[c, x] = weight_M[0] * prob_MCW[0, c, x]
        for m in range(1, len(weight_M)):
            for x in range(blend_CW.shape[1]):
                blend_CW[c, x] += weight_M[m] * prob_MCW[m, c, x]


@compiled
def _run_up(
    count_KCC: NDArray[np.int64],
    order_K: NDArray[np.int64],
    start_CC: NDArray[np.int64],
    note_CCK: NDArray[np.int32],
) -> None:
    C = len(start_CC)
    for truth in range(C):
        for guess in range(C):
            total = start_CC[truth, guess]
            for k in range(len(order_K)):
                total += note_CCK[truth, guess, k]
                count_KCC[order_K[k], truth, guess] = total


@parallel
def _count_each(
    prob: Array,
    models: Models,
    weight_KM: Array,
    settle: bool,
    label_HW: NDArray[np.uint8],
    count_JKCC: NDArray[np.int64],
) -> None:
    """Blend with every candidate, but if `settle` only where the models disagree."""
    tasks, K, C, _ = count_JKCC.shape
    M = weight_KM.shape[1]
    H, W = label_HW.shape
    for task in numba.prange(tasks):
        table_QP = np.zeros((TABLES, (C + 1) ** 2), np.uint32)
        table_KQP = np.zeros((K, TABLES, (C + 1) ** 2), np.uint32)
        pair_W = np.empty(W, np.uint16)
        prob_MCW = np.empty((M, C, W), prob.dtype)
        largest_W = np.empty(W, prob.dtype)
        first_W, other_W = np.empty(W, np.int32), np.empty(W, np.int32)
        for y in range(task * STRIP, min(task * STRIP + STRIP, H)):
            _resize_row(prob_MCW, prob, models, y)
            open_W = label_HW[y] < C
            if settle:
                open_W[:] = False
                winners(first_W, largest_W, prob_MCW[0])
                for m in range(1, M):
                    winners(other_W, largest_W, prob_MCW[m])
                    open_W |= (other_W != first_W) & (label_HW[y] < C)
                pairs(
                    pair_W,
                    first_W.astype(np.uint8),
                    np.where(open_W, np.uint8(255), label_HW[y]),
                    C,
                )
                tally(table_QP, pair_W)
            at_n = np.nonzero(open_W)[0]
            n = len(at_n)
            prob_MCn = _select(prob_MCW, at_n)
            blend_Cn = np.empty((C, n), prob.dtype)
            truth_n = label_HW[y][at_n]
            for k in range(K):
                _blend(blend_Cn, prob_MCn, weight_KM[k])
                winners(first_W[:n], largest_W[:n], blend_Cn)
                pairs(pair_W, first_W[:n].astype(np.uint8), truth_n, C)
                tally(table_KQP[k], pair_W[:n])
        start_CC = np.empty((C, C), np.int64)
        add_up(start_CC, table_QP)
        for k in range(K):
            add_up(count_JKCC[task, k], table_KQP[k])
            count_JKCC[task, k] += start_CC


@compiled
def _select(prob_MCW: Array, at_n: NDArray[np.int64]) -> Array:
    """(M, C, n): some pixels of a row."""
    M, C, _ = prob_MCW.shape
    prob_MCn = np.empty((M, C, len(at_n)), prob_MCW.dtype)
    for m in range(M):
        for c in range(C):
            for i in range(len(at_n)):
                prob_MCn[m, c, i] = prob_MCW[m, c, at_n[i]]
    return prob_MCn
