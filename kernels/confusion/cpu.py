"""Counting on the CPU: Numba, parallel over runs of pixels or strips of rows.

Every count is a sum of integers, so it does not depend on which thread adds what.

Axes: N pixels, B batch, C class, H W pixels of the labels, h w pixels of the probabilities, R rows
of a strip, J tasks.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from kernels.confusion.cpu_rows import add_up, mix, new_tables, tally
from kernels.cpu import Array, Bytes, Integers, Taps, compiled, find_winners, parallel, taps, widen
from kernels.threads import cpu_threads

RUN = 4096
"""Pixels whose pairs are worked out before they are counted: 8 KiB, near the core."""

MOST_TASKS = 64
"""A task's table is a few KiB; more of them than cores, so that a slow core holds up little."""

STRIP = 16
"""Rows of labels a task: it reads up to two rows that its neighbours read too."""


@cpu_threads()
def count(prediction_N: Tensor, label_N: Tensor, classes: int) -> Tensor:
    """(C, C) counts of contiguous uint8 (N,); values from `classes` on do not count."""
    tasks = min(MOST_TASKS, -(-len(label_N) // RUN))
    count_JCC = np.empty((tasks, classes, classes), np.int64)
    _count_runs(prediction_N.numpy(), label_N.numpy(), count_JCC)
    return torch.from_numpy(count_JCC.sum(axis=0))


def count_argmax(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """(C, C) counts of the winners of `argmax`, against contiguous uint8 labels."""
    winner_BHW = torch.empty_like(label_BHW)
    argmax(prob_BChw, winner_BHW)
    return count(winner_BHW.flatten(), label_BHW.flatten(), prob_BChw.shape[1])


@cpu_threads()
def argmax(prob_BChw: Tensor, winner_BHW: Tensor) -> None:
    """Write the class of the largest of resized probabilities, the first of equals, as uint8."""
    (_, H, W), (_, _, h, w) = winner_BHW.shape, prob_BChw.shape
    real = torch.promote_types(prob_BChw.dtype, torch.float32)
    prob = prob_BChw.detach().to(real).numpy()  # NumPy has no bfloat16
    down_H, across_W = taps(H, h, prob.dtype), taps(W, w, prob.dtype)
    _argmax_strips(prob, down_H, across_W, winner_BHW.numpy())


@parallel
def _count_runs(prediction_N: Bytes, label_N: Bytes, count_JCC: Integers) -> None:
    tasks, C, _ = count_JCC.shape
    N = len(label_N)
    for task in numba.prange(tasks):
        table_QP, pair_N = new_tables(C, RUN)
        for start in range(N * task // tasks, N * (task + 1) // tasks, RUN):
            stop = min(start + RUN, N * (task + 1) // tasks)
            tally(table_QP, pair_N, prediction_N[start:stop], label_N[start:stop], C)
        add_up(count_JCC[task], table_QP)


@parallel
def _argmax_strips(prob_BChw: Array, down_H: Taps, across_W: Taps, winner_BHW: Bytes) -> None:
    B, H, _ = winner_BHW.shape
    strips = (H + STRIP - 1) // STRIP
    for task in numba.prange(B * strips):
        b, top = task // strips, task % strips * STRIP
        winner_RW = winner_BHW[b, top : top + STRIP]
        _write_winners(winner_RW, prob_BChw[b], top, down_H, across_W)


@compiled
def _write_winners(
    winner_RW: Bytes, prob_Chw: Array, top: int, down_H: Taps, across_W: Taps
) -> None:
    """The winners of rows `top` and following of one image."""
    (C, _, w), W = prob_Chw.shape, winner_RW.shape[1]
    ring_2Cw, held_2 = np.empty((2, C, w), prob_Chw.dtype), np.full(2, -1)
    row_Cw, wide_CW = np.empty((C, w), prob_Chw.dtype), np.empty((C, W), prob_Chw.dtype)
    largest_W, winner_W = np.empty(W, prob_Chw.dtype), np.empty(W, np.int32)
    for y in range(len(winner_RW)):
        first, second = down_H.first[top + y], down_H.second[top + y]
        for row in (first, second):
            # Neighbouring rows differ in parity, so that neither takes the other's place.
            if held_2[row % 2] != row:
                held_2[row % 2] = row
                _copy(ring_2Cw[row % 2], prob_Chw[:, row])
        above, below = ring_2Cw[first % 2].ravel(), ring_2Cw[second % 2].ravel()
        mix(row_Cw.ravel(), above, below, down_H.part[top + y])
        if w == W:
            find_winners(winner_W, largest_W, row_Cw)
        else:
            widen(wide_CW, row_Cw, across_W)
            find_winners(winner_W, largest_W, wide_CW)
        winner_RW[y] = winner_W


@compiled
def _copy(row_Cw: Array, source_Cw: Array) -> None:
    """In the order in which the classes of a pixel usually lie, side by side."""
    C, w = row_Cw.shape
    for x in range(w):
        for c in range(C):
            row_Cw[c, x] = source_Cw[c, x]
