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
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from kernels.confusion.cpu import TABLES, add_up, new_tables, tally
from kernels.confusion.cpu_envelope import walk
from kernels.cpu import Array, Bytes, Taps, compiled, find_winners, parallel, resize_row, taps
from kernels.threads import cpu_threads

STRIP = 32
"""Rows of labels a task: enough that adding up the notes of 64 candidates costs little."""


class Frame(NamedTuple):
    """One image: probabilities of all models at one size, and labels."""

    prob_MChw: Array
    label_HW: Bytes


class Line(NamedTuple):
    """Candidates of two models in the order of the second one's share, and the two outermost."""

    share_K: Array
    order_K: Array
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
    total_K = weight.sum(axis=1)
    # What is said above does not hold for weights that are negative or all 0.
    proper = bool((weight >= 0).all() and (total_K > 0).all())
    count_KCC = np.zeros((K, C, C), np.int64)
    for b, label_HW in enumerate(label_BHW.numpy()):
        probs = [prob_BChw[b].detach().to(weight_KM.dtype).numpy() for prob_BChw in prob_MBChw]
        if len({prob_Chw.shape for prob_Chw in probs}) > 1:
            probs = [_resized(prob_Chw, label_HW.shape) for prob_Chw in probs]
        # Row by row, however they lie: another layout would be compiled anew, for as long again.
        prob_MChw = np.stack(probs, out=np.empty((M, *probs[0].shape), probs[0].dtype))
        frame = Frame(prob_MChw, label_HW)
        down_H, across_W = _taps(label_HW.shape, probs[0])
        count_JKCC = np.empty((-(-len(label_HW) // STRIP), K, C, C), np.int64)
        if M == 2 and proper:
            share_K = weight[:, 1] / total_K
            order_K = np.argsort(share_K, kind="stable")
            line = Line(share_K[order_K], order_K, weight[order_K[[0, -1]]])
            _count_segments(frame, down_H, across_W, line, count_JKCC)
        else:
            _count_each(frame, down_H, across_W, weight, proper and K > M, count_JKCC)
        count_KCC += count_JKCC.sum(axis=0)
    return torch.from_numpy(count_KCC)


def _taps(size_hw: tuple[int, ...], prob: Array) -> tuple[Taps, Taps]:
    (H, W), (h, w) = size_hw, prob.shape[-2:]
    return taps(H, h, prob.dtype), taps(W, w, prob.dtype)


def _resized(prob_Chw: Array, size_hw: tuple[int, ...]) -> Array:
    """Resizing these values once more, to the same size, changes none of them."""
    out_HCW = np.empty((size_hw[0], len(prob_Chw), size_hw[1]), prob_Chw.dtype)
    _resize_rows(out_HCW, np.ascontiguousarray(prob_Chw), *_taps(size_hw, prob_Chw))
    return out_HCW.swapaxes(0, 1)


@parallel
def _resize_rows(out_HCW: Array, prob_Chw: Array, down_H: Taps, across_W: Taps) -> None:
    for y in numba.prange(len(out_HCW)):
        resize_row(out_HCW[y], prob_Chw, y, down_H, across_W)


@parallel
def _count_segments(
    frame: Frame, down_H: Taps, across_W: Taps, line: Line, count_JKCC: Array
) -> None:
    (prob, label_HW), (tasks, K, C, _) = frame, count_JKCC.shape
    H, W = label_HW.shape
    for task in numba.prange(tasks):
        note_CCK, (table_QP, pair_W) = np.zeros((C, C, K), np.int32), new_tables(C, W)
        prob_2CW, blend_CW = np.empty((2, C, W), prob.dtype), np.empty((C, W), prob.dtype)
        largest_W = np.empty(W, prob.dtype)
        first_W, last_W = np.empty(W, np.int32), np.empty(W, np.int32)
        start_CC = np.empty((C, C), np.int64)
        for y in range(task * STRIP, min(task * STRIP + STRIP, H)):
            for m in range(2):
                resize_row(prob_2CW[m], prob[m], y, down_H, across_W)
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
        for k in range(K):
            start_CC[:] += note_CCK[:, :, k]
            count_JKCC[task, line.order_K[k]] = start_CC


@compiled
def _blend(blend_CW: Array, prob_MCW: Array, weight_M: Array) -> None:
    for c in range(blend_CW.shape[0]):
        for x in range(blend_CW.shape[1]):
            blend_CW[c, x] = weight_M[0] * prob_MCW[0, c, x]
        for m in range(1, len(weight_M)):
            for x in range(blend_CW.shape[1]):
                blend_CW[c, x] += weight_M[m] * prob_MCW[m, c, x]


@parallel
def _count_each(
    frame: Frame, down_H: Taps, across_W: Taps, weight_KM: Array, settle: bool, count_JKCC: Array
) -> None:
    """Blend with every candidate, but if `settle` only where the models disagree."""
    (prob, label_HW), (tasks, K, C, _) = frame, count_JKCC.shape
    (H, W), M = label_HW.shape, weight_KM.shape[1]
    for task in numba.prange(tasks):
        table_QP, pair_W = new_tables(C, W)
        table_KQP = np.zeros((K, TABLES, (C + 1) ** 2), np.uint32)
        prob_MCW = np.empty((M, C, W), prob.dtype)
        largest_W = np.empty(W, prob.dtype)
        first_W, other_W = np.empty(W, np.int32), np.empty(W, np.int32)
        for y in range(task * STRIP, min(task * STRIP + STRIP, H)):
            for m in range(M):
                resize_row(prob_MCW[m], prob[m], y, down_H, across_W)
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
            prob_MCn, truth_n, n = prob_MCW[:, :, at_n], label_HW[y][at_n], len(at_n)
            blend_Cn = np.empty((C, n), prob.dtype)
            for k in range(K):
                _blend(blend_Cn, prob_MCn, weight_KM[k])
                find_winners(first_W[:n], largest_W, blend_Cn)
                tally(table_KQP[k], pair_W, first_W[:n].astype(np.uint8), truth_n, C)
        start_CC = np.empty((C, C), np.int64)
        add_up(start_CC, table_QP)
        for k in range(K):
            add_up(count_JKCC[task, k], table_KQP[k])
            count_JKCC[task, k] += start_CC
