"""Counting on the CPU: Numba, parallel over runs of pixels or strips of rows.

Every count is a sum of integers, so it does not depend on which thread adds what.

Axes: K candidates, N pixels, B batch, C class, H W pixels of the labels, h w pixels of the
probabilities, J tasks, P pairs (truth, prediction), Q interleaved tables.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.confusion.cpu_rows import (
    TABLES,
    Taps,
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

RUN = 4096
"""Pixels whose pairs are worked out before they are counted: 8 KiB, near the core."""

MOST_TASKS = 64
"""A task's table is a few KiB; more of them than cores, so that a slow core holds up little."""

STRIP = 16
"""Rows of labels a task: it reads up to two rows that its neighbours read too."""

Array = NDArray[Any]


def count(
    prediction_KN: NDArray[np.uint8], label_N: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """(K, C, C) counts of K predictions; values from `classes` on do not count.

    Args:
        prediction_KN: (K, N) C-contiguous.
        label_N: (N,) C-contiguous.
        classes: number of classes C, 1 .. 255.
    """
    tasks = min(MOST_TASKS, -(-len(label_N) // RUN))
    count_JKCC = np.empty((tasks, len(prediction_KN), classes, classes), np.int64)
    _count_runs(prediction_KN, label_N, count_JKCC)
    count_KCC: NDArray[np.int64] = count_JKCC.sum(axis=0)
    return count_KCC


def count_argmax(
    prob: Array,
    strides_BChw: tuple[int, ...],
    classes: int,
    source_hw: tuple[int, int],
    label_BHW: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """(C, C) counts of the largest of resized probabilities.

    Args:
        prob: 1-D float32 or float64; (b, c, y, x) stands at their dot product with `strides_BChw`.
        strides_BChw: strides of the probabilities in elements, none negative.
        classes: number of classes C, 1 .. 255.
        source_hw: height and width of the probabilities.
        label_BHW: (B, H, W) C-contiguous; values from `classes` on do not count.
    """
    B, H, W = label_BHW.shape
    count_JCC = np.empty((B * -(-H // STRIP), classes, classes), np.int64)
    down, across = taps(H, source_hw[0], prob.dtype), taps(W, source_hw[1], prob.dtype)
    _count_strips(prob, strides_BChw, classes, source_hw[1], down, across, label_BHW, count_JCC)
    count_CC: NDArray[np.int64] = count_JCC.sum(axis=0)
    return count_CC


def argmax(
    prob: Array,
    strides_BChw: tuple[int, ...],
    classes: int,
    source_hw: tuple[int, int],
    winner_BHW: NDArray[np.uint8],
) -> None:
    """Write the class of the largest of resized probabilities to `winner_BHW`, the first of equals.

    Args:
        prob: see `count_argmax`.
        strides_BChw: see `count_argmax`.
        classes: number of classes C, 1 .. 255.
        source_hw: height and width of the probabilities.
        winner_BHW: (B, H, W) C-contiguous; written.
    """
    _, H, W = winner_BHW.shape
    down, across = taps(H, source_hw[0], prob.dtype), taps(W, source_hw[1], prob.dtype)
    _argmax_strips(prob, strides_BChw, classes, source_hw[1], down, across, winner_BHW)


@parallel
def _count_runs(
    prediction_KN: NDArray[np.uint8],
    label_N: NDArray[np.uint8],
    count_JKCC: NDArray[np.int64],
) -> None:
    tasks, K, C, _ = count_JKCC.shape
    N = len(label_N)
    for task in numba.prange(tasks):
        table_QP = np.empty((TABLES, (C + 1) ** 2), np.uint32)
        pair_N = np.empty(RUN, np.uint16)
        for k in range(K):
            table_QP[:] = 0
            for start in range(N * task // tasks, N * (task + 1) // tasks, RUN):
                stop = min(start + RUN, N * (task + 1) // tasks)
                pairs(pair_N, prediction_KN[k, start:stop], label_N[start:stop], C)
                tally(table_QP, pair_N[: stop - start])
            add_up(count_JKCC[task, k], table_QP)


@parallel
def _count_strips(
    prob: Array,
    strides_BChw: tuple[int, ...],
    C: int,
    w: int,
    down_H: Taps,
    across_W: Taps,
    label_BHW: NDArray[np.uint8],
    count_JCC: NDArray[np.int64],
) -> None:
    B, H, W = label_BHW.shape
    strips = (H + STRIP - 1) // STRIP
    for task in numba.prange(B * strips):
        b, top = task // strips, task % strips * STRIP
        table_QP = np.zeros((TABLES, (C + 1) ** 2), np.uint32)
        pair_W = np.empty(W, np.uint16)
        winner_RW = np.empty((min(STRIP, H - top), W), np.uint8)
        _winners(winner_RW, prob, b * strides_BChw[0], strides_BChw, C, w, top, down_H, across_W)
        for y in range(len(winner_RW)):
            pairs(pair_W, winner_RW[y], label_BHW[b, top + y], C)
            tally(table_QP, pair_W)
        add_up(count_JCC[task], table_QP)


@parallel
def _argmax_strips(
    prob: Array,
    strides_BChw: tuple[int, ...],
    C: int,
    w: int,
    down_H: Taps,
    across_W: Taps,
    winner_BHW: NDArray[np.uint8],
) -> None:
    B, H, _ = winner_BHW.shape
    strips = (H + STRIP - 1) // STRIP
    for task in numba.prange(B * strips):
        b, top = task // strips, task % strips * STRIP
        winner_RW = winner_BHW[b, top : top + STRIP]
        _winners(winner_RW, prob, b * strides_BChw[0], strides_BChw, C, w, top, down_H, across_W)


@compiled
def _winners(
    winner_RW: NDArray[np.uint8],
    prob: Array,
    start: int,
    strides_BChw: tuple[int, ...],
    C: int,
    w: int,
    top: int,
    down_H: Taps,
    across_W: Taps,
) -> None:
    """The winners of rows `top` and following of one image, which starts at `start`."""
    W = winner_RW.shape[1]
    ring_2Cw = np.empty((2, C, w), prob.dtype)
    held_2 = np.full(2, -1)
    row_Cw = np.empty((C, w), prob.dtype)
    wide_CW = np.empty((C, W), prob.dtype)
    largest_W = np.empty(W, prob.dtype)
    winner_W = np.empty(W, np.int32)
    for y in range(len(winner_RW)):
        first, second = down_H.first[top + y], down_H.second[top + y]
        for row in (first, second):
            # Neighbouring rows differ in parity, so that neither takes the other's place.
            if held_2[row % 2] != row:
                held_2[row % 2] = row
                _read_row(ring_2Cw[row % 2], prob, start + int(row) * strides_BChw[2], strides_BChw)
        mix(
            row_Cw.ravel(),
            ring_2Cw[first % 2].ravel(),
            ring_2Cw[second % 2].ravel(),
            down_H.part[top + y],
        )
        if w == W:
            winners(winner_W, largest_W, row_Cw)
        else:
            widen(wide_CW, row_Cw, across_W.first, across_W.second, across_W.part)
            winners(winner_W, largest_W, wide_CW)
        winner_RW[y] = winner_W


@compiled
def _read_row(row_Cw: Array, prob: Array, start: int, strides_BChw: tuple[int, ...]) -> None:
    C, w = row_Cw.shape
    for x in range(w):
        at = start + x * strides_BChw[3]
        for c in range(C):
            row_Cw[c, x] = prob[at + c * strides_BChw[1]]
