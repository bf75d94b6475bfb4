"""Counting on the CPU: Numba, parallel over runs of pixels or rows.

Every count is a sum of integers, so it does not depend on which thread adds what.

Axes: see reference.py; J tasks, P pairs (truth, prediction), Q interleaved tables.
"""

import numba
import numpy as np
import torch
from numba import float32, int64, uint8
from numpy.typing import NDArray
from torch import Tensor

from kernels.confusion.cpu_words import PIXELS, SETS, add_sets, tally_words
from kernels.cpu import TAPS, Array, Bytes, Taps, compiled, find_winners, parallel, resize_row, taps
from kernels.threads import cpu_threads

RUN = 4096
"""Pixels whose pairs are worked out before they are counted: 8 KiB, near the core."""

MOST_TASKS = 64
"""A task's table is a few KiB; more of them than cores, so that a slow core holds up little."""

TABLES = 4
"""Neighbouring pixels are often of one pair; in four tables they do not wait for one another."""


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
    _argmax_rows(prob, down_H, across_W, winner_BHW.numpy())


@parallel
def _count_runs(prediction_N: Bytes, label_N: Bytes, count_JCC: Array) -> None:
    tasks, C, _ = count_JCC.shape
    N = len(label_N)
    for task in numba.prange(tasks):
        table_QP, pair_N = new_tables(C, RUN)
        first, end = N * task // tasks, N * (task + 1) // tasks
        # Few classes are counted by whole words of pixels; what is left, and many, by tables.
        count_CS, rest = np.zeros((C, SETS), np.uint64), first
        if C <= SETS:
            rest = end - (end - first) % PIXELS
            tally_words(count_CS, label_N[first:rest], prediction_N[first:rest])
        for start in range(rest, end, RUN):
            stop = min(start + RUN, end)
            tally(table_QP, pair_N, prediction_N[start:stop], label_N[start:stop], C)
        add_up(count_JCC[task], table_QP)
        if C <= SETS:
            add_sets(count_JCC[task], count_CS)


@parallel
def _argmax_rows(prob_BChw: Array, down_H: Taps, across_W: Taps, winner_BHW: Bytes) -> None:
    C, (B, H, W), real = prob_BChw.shape[1], winner_BHW.shape, prob_BChw.dtype
    for task in numba.prange(B * H):
        b, y = task // H, task % H
        prob_CW, largest_W = np.empty((C, W), real), np.empty(W, real)
        winner_W = np.empty(W, np.int32)
        resize_row(prob_CW, prob_BChw[b], y, down_H, across_W)
        find_winners(winner_W, largest_W, prob_CW)
        for x in range(W):
            winner_BHW[b, y, x] = winner_W[x]


SPECIALISATIONS = (
    (_argmax_rows, (float32[:, :, :, :], TAPS, TAPS, uint8[:, :, ::1])),
    (_argmax_rows, (float32[:, :, :, ::1], TAPS, TAPS, uint8[:, :, ::1])),  # of a store
    (_count_runs, (uint8[::1], uint8[::1], int64[:, :, ::1])),
)
"""What training calls, see `kernels.ahead`."""


@compiled
def new_tables(C: int, N: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """(Q, P) zeros, in which what is no class has a row and a column; scratch for N pixels."""
    return np.zeros((TABLES, (C + 1) ** 2), np.uint32), np.empty(N, np.uint16)


@compiled
def tally(
    table_QP: NDArray[np.uint32], pair_N: NDArray[np.uint16], guess_N: Bytes, label_N: Bytes, C: int
) -> None:
    """Count pairs; `pair_N` is scratch of at least as many pixels."""
    side, beyond = np.uint16(C + 1), np.uint8(C)
    for i in range(len(label_N)):
        truth, guess = min(label_N[i], beyond), min(guess_N[i], beyond)
        pair_N[i] = np.uint16(truth) * side + np.uint16(guess)
    even = len(label_N) // 4 * 4
    for i in range(0, even, 4):
        table_QP[0, pair_N[i]] += 1
        table_QP[1, pair_N[i + 1]] += 1
        table_QP[2, pair_N[i + 2]] += 1
        table_QP[3, pair_N[i + 3]] += 1
    for i in range(even, len(label_N)):
        table_QP[0, pair_N[i]] += 1


@compiled
def add_up(count_CC: Array, table_QP: NDArray[np.uint32]) -> None:
    """The counts of classes; what was no class is left out."""
    C = len(count_CC)
    for truth in range(C):
        for guess in range(C):
            pair, total = truth * (C + 1) + guess, 0
            for table in range(len(table_QP)):
                total += table_QP[table, pair]
            count_CC[truth, guess] = total
