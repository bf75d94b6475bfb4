"""Counting blends on the CPU: many candidate weights for little more than the cost of one.

Most pixels need no blending: where every model has the same winner, so has every blend with
non-negative weights. For two models the others are cheap too: sorted by the share of the second,
the candidates fall into a few segments of one winner each (cpu_envelope.py). Where a segment begins
its class gains a pixel and the one before loses it, from there on; running sums turn these notes
into counts. So a pixel costs as much as it has segments, not candidates.

Axes: K candidates, M models, C class, H W pixels of the labels, h w pixels of the probabilities,
J tasks, n the pixels of a row whose winner is not settled.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.confusion.cpu_envelope import walk
from kernels.confusion.cpu_rows import TABLES, add_up, mix, new_tables, tally
from kernels.cpu import Array, Bytes, Integers, Taps, compiled, find_winners, parallel, taps, widen
from kernels.threads import cpu_threads

STRIP = 32
"""Rows of labels a task: enough that adding up the notes of 64 candidates costs little."""


class Models(NamedTuple):
    """Where each model's probabilities are and how they are resized, an element or row for each."""

    start_M: Integers
    hw_M2: Integers
    above_MH: NDArray[np.uint32]
    below_MH: NDArray[np.uint32]
    down_MH: Array
    left_MW: NDArray[np.uint32]
    right_MW: NDArray[np.uint32]
    across_MW: Array


class Line(NamedTuple):
    """Candidates of two models in the order of the second one's share, and the two outermost."""

    share_K: Array
    order_K: Integers
    end_2M: Array


@cpu_threads()
def count_blends(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    """(K, C, C) counts of blends of M models.

    Args:
        prob_MBChw: floating, any layout.
        weight_KM: of the type that is blended in, float32 or float64; K and M at least 1.
        label_BHW: contiguous uint8; values from C on do not count.
    """
    (K, M), C, weight = weight_KM.shape, prob_MBChw[0].shape[1], weight_KM.numpy()
    models = _models([(p.shape[2], p.shape[3]) for p in prob_MBChw], label_BHW, C, weight.dtype)
    total_K = weight.sum(axis=1)
    # What is said above does not hold for weights that are negative or all 0.
    proper = bool((weight >= 0).all() and (total_K > 0).all())
    count_KCC = np.zeros((K, C, C), np.int64)
    for b, label_HW in enumerate(label_BHW.numpy()):
        parts = [prob_BChw[b].detach().to(weight_KM.dtype).flatten() for prob_BChw in prob_MBChw]
        prob = torch.cat(parts).numpy()
        count_JKCC = np.empty((-(-len(label_HW) // STRIP), K, C, C), np.int64)
        if M == 2 and proper:
            share_K = weight[:, 1] / total_K
            order_K = np.argsort(share_K, kind="stable")
            line = Line(share_K[order_K], order_K, weight[order_K[[0, -1]]])
            _count_segments(prob, models, line, label_HW, count_JKCC)
        else:
            _count_each(prob, models, weight, proper and K > M, label_HW, count_JKCC)
        count_KCC += count_JKCC.sum(axis=0)
    return torch.from_numpy(count_KCC)


def _models(
    hw_M: Sequence[tuple[int, int]], label_BHW: Tensor, classes: int, dtype: np.dtype[Any]
) -> Models:
    _, H, W = label_BHW.shape
    hw_M2 = np.array(hw_M, np.int64)
    size_M = classes * hw_M2.prod(axis=1)
    down, across = zip(*((taps(H, h, dtype), taps(W, w, dtype)) for h, w in hw_M), strict=True)
    # Numba takes no tuple of tuples into a parallel loop.
    rows = [np.stack(part_M) for along in (down, across) for part_M in zip(*along, strict=True)]
    return Models(np.cumsum(size_M) - size_M, hw_M2, *rows)


@parallel
def _count_segments(
    prob: Array, models: Models, line: Line, label_HW: Bytes, count_JKCC: Integers
) -> None:
    tasks, K, C, _ = count_JKCC.shape
    H, W = label_HW.shape
    for task in numba.prange(tasks):
        note_CCK, (table_QP, pair_W) = np.zeros((C, C, K), np.int32), new_tables(C, W)
        prob_2CW, blend_CW = np.empty((2, C, W), prob.dtype), np.empty((C, W), prob.dtype)
        largest_W = np.empty(W, prob.dtype)
        first_W, last_W = np.empty(W, np.int32), np.empty(W, np.int32)
        start_CC = np.empty((C, C), np.int64)
        for y in range(task * STRIP, min(task * STRIP + STRIP, H)):
            _resize_row(prob_2CW, prob, models, y)
            _blend(blend_CW, prob_2CW, line.end_2M[0])
            find_winners(first_W, largest_W, blend_CW)
            tally(table_QP, pair_W, first_W.astype(np.uint8), label_HW[y], C)
            # Scores are linear in the share: the one that is the largest at both ends is so all the
            # way. Only pixels whose ends differ are walked.
            if K > 1:
                _blend(blend_CW, prob_2CW, line.end_2M[1])
                find_winners(last_W, largest_W, blend_CW)
                at_n = np.nonzero((first_W != last_W) & (label_HW[y] < C))[0]
                prob_2Cn = prob_2CW[:, :, at_n]
                truth_n, first_n, last_n = label_HW[y][at_n], first_W[at_n], last_W[at_n]
                walk(note_CCK, line.share_K, prob_2Cn, truth_n, first_n, last_n)
        add_up(start_CC, table_QP)
        _run_up(count_JKCC[task], line.order_K, start_CC, note_CCK)


@compiled
def _resize_row(prob_MCW: Array, prob: Array, models: Models, y: int) -> None:
    """Row `y` of every model at the labels' size."""
    C, first, second = prob_MCW.shape[1], models.above_MH, models.below_MH
    for m in range(len(prob_MCW)):
        h, w = models.hw_M2[m]
        row_Cw = np.empty((C, w), prob.dtype)
        for c in range(C):
            plane = models.start_M[m] + c * h * w
            above, below = plane + first[m, y] * w, plane + second[m, y] * w
            mix(row_Cw[c], prob[above : above + w], prob[below : below + w], models.down_MH[m, y])
        across_W = Taps(models.left_MW[m], models.right_MW[m], models.across_MW[m])
        widen(prob_MCW[m], row_Cw, across_W)


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
    count_KCC: Integers, order_K: Integers, start_CC: Integers, note_CCK: NDArray[np.int32]
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
    label_HW: Bytes,
    count_JKCC: Integers,
) -> None:
    """Blend with every candidate, but if `settle` only where the models disagree."""
    tasks, K, C, _ = count_JKCC.shape
    M = weight_KM.shape[1]
    H, W = label_HW.shape
    for task in numba.prange(tasks):
        table_QP, pair_W = new_tables(C, W)
        table_KQP = np.zeros((K, TABLES, (C + 1) ** 2), np.uint32)
        prob_MCW = np.empty((M, C, W), prob.dtype)
        largest_W = np.empty(W, prob.dtype)
        first_W, other_W = np.empty(W, np.int32), np.empty(W, np.int32)
        for y in range(task * STRIP, min(task * STRIP + STRIP, H)):
            _resize_row(prob_MCW, prob, models, y)
            open_W = label_HW[y] < C
            if settle:
                open_W[:] = False
                find_winners(first_W, largest_W, prob_MCW[0])
                for m in range(1, M):
                    find_winners(other_W, largest_W, prob_MCW[m])
                    open_W |= (other_W != first_W) & (label_HW[y] < C)
                # What all models agree on is counted once, and the rest below for each candidate.
                settled_W = np.where(open_W, np.uint8(255), label_HW[y])
                tally(table_QP, pair_W, first_W.astype(np.uint8), settled_W, C)
            at_n = np.nonzero(open_W)[0]
            n = len(at_n)
            prob_MCn = prob_MCW[:, :, at_n]
            blend_Cn = np.empty((C, n), prob.dtype)
            truth_n = label_HW[y][at_n]
            for k in range(K):
                _blend(blend_Cn, prob_MCn, weight_KM[k])
                find_winners(first_W[:n], largest_W, blend_Cn)
                tally(table_KQP[k], pair_W, first_W[:n].astype(np.uint8), truth_n, C)
        start_CC = np.empty((C, C), np.int64)
        add_up(start_CC, table_QP)
        for k in range(K):
            add_up(count_JKCC[task, k], table_KQP[k])
            count_JKCC[task, k] += start_CC
