"""Accumulation of one view on the CPU: Numba, parallel over strips of base rows.

A strip makes each view row that it needs once: logits between cells, softmax at every temperature,
resampled along the row to the base width, the classes of a pixel side by side. Two such rows are
kept, and a base row is their mean: nothing of the view's full size ever exists.

Axes: B batch, T temperature, C class, H W base pixels, V X view rows and columns, h w strided
cells, P = W C the classes of a base row's pixels, one after another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba import float32
from torch import Tensor

from kernels.cpu import ONE, TAPS, Array, Taps, compiled, exp, parallel, resize_row, taps, typed
from kernels.threads import cpu_threads
from kernels.tta_accumulate.reference import View

STRIP = 16
"""Base rows a task: it makes up to two view rows that its neighbours make too."""

LOWEST = np.float32(-87.33654)
"""The lowest argument of the exponential: below it the result would not be a normal number."""


class Total(NamedTuple):
    """The sum that is added to, and the inverse of each of its temperatures."""

    sum_TBHP: Array
    inverse_T: Array


@cpu_threads()
def accumulate(
    total_BTCHW: Tensor, logits_BChw: Tensor, temperatures: Sequence[float], view: View
) -> None:
    """Add one view to the total, in place; see `op.tta_accumulate`."""
    (_, T, C, H, W), (_, _, h, w), (V, X) = total_BTCHW.shape, logits_BChw.shape, view.hw
    total_TBHWC = total_BTCHW.permute(1, 0, 3, 4, 2)
    in_order = total_TBHWC.is_contiguous()
    sum_TBHWC = total_TBHWC if in_order else torch.zeros(total_TBHWC.shape)
    inverse_T = np.reciprocal(np.array(temperatures, np.float32))
    across_W = taps(W, X, np.float32)
    # Mirroring back is free: the output's columns read the view from its other end.
    if view.flipped:
        last = np.uint32(X - 1)
        across_W = Taps(last - across_W.first, last - across_W.second, across_W.part)
    _add_strips(
        Total(sum_TBHWC.view(T, -1, H, W * C).numpy(), inverse_T),
        logits_BChw.to(torch.float32).numpy(),  # NumPy has no bfloat16
        taps(V, h, np.float32, align_corners=view.align_corners),
        taps(X, w, np.float32, align_corners=view.align_corners),
        taps(H, V, np.float32),
        across_W,
    )
    if not in_order:
        total_TBHWC += sum_TBHWC


@parallel
def _add_strips(
    total: Total, logits_BChw: Array, down_V: Taps, right_X: Taps, down_H: Taps, across_W: Taps
) -> None:
    total_TBHP, inverse_T = total
    T, B, H, P = total_TBHP.shape
    C = logits_BChw.shape[1]
    strips = (H + STRIP - 1) // STRIP
    for task in numba.prange(B * strips):
        b, top = task // strips, task % strips * STRIP
        # Two rows of the view at a time are resized down to the output's, in a scratch that stays
        # in the cache: a whole view of probabilities, T C X V floats, is never in memory.
        ring_2TP, held_2 = np.empty((2, T, P), np.float32), np.full(2, -1)
        logits_CX = np.empty((C, len(right_X.part)), np.float32)
        prob_CX, sum_X = np.empty_like(logits_CX), np.empty_like(right_X.part)
        for y in range(top, min(top + STRIP, H)):
            first, second, part = down_H.first[y], down_H.second[y], down_H.part[y]
            for row in (first, second):
                # Neighbouring rows differ in parity, so that neither takes the other's place.
                if held_2[row % 2] != row:
                    held_2[row % 2] = row
                    resize_row(logits_CX, logits_BChw[b], row, down_V, right_X)
                    # Subtracted once for all temperatures: the largest of z is the largest of z /
                    # T.
                    _subtract_largest(logits_CX, sum_X)
                    for t in range(T):
                        _softmax(prob_CX, sum_X, logits_CX, inverse_T[t])
                        _resample(ring_2TP[row % 2, t], prob_CX, across_W)
            upper_TP, lower_TP = ring_2TP[first % 2], ring_2TP[second % 2]
            for t in range(T):
                _add_mean(total_TBHP[t, b, y], upper_TP[t], lower_TP[t], part)


SPECIALISATIONS = (
    (
        _add_strips,
        (
            typed(Total, float32[:, :, :, ::1], float32[::1]),
            float32[:, :, :, :],
            TAPS,
            TAPS,
            TAPS,
            TAPS,
        ),
    ),
)
"""What training calls, see `kernels.ahead`."""


@compiled
def _subtract_largest(logits_CX: Array, largest_X: Array) -> None:
    """Make the largest logit of each pixel 0, in place; the other array is scratch."""
    for x in range(len(largest_X)):
        largest_X[x] = logits_CX[0, x]
    for c in range(1, logits_CX.shape[0]):
        for x in range(logits_CX.shape[1]):
            largest_X[x] = max(largest_X[x], logits_CX[c, x])
    for c in range(logits_CX.shape[0]):
        for x in range(logits_CX.shape[1]):
            logits_CX[c, x] -= largest_X[x]


@compiled
def _softmax(prob_CX: Array, sum_X: Array, logits_CX: Array, inverse: np.float32) -> None:
    sum_X[:] = 0
    for c in range(prob_CX.shape[0]):
        for x in range(prob_CX.shape[1]):
            prob_CX[c, x] = exp(logits_CX[c, x] * inverse, LOWEST)
            sum_X[x] += prob_CX[c, x]
    for x in range(len(sum_X)):
        sum_X[x] = ONE / sum_X[x]
    for c in range(prob_CX.shape[0]):
        for x in range(prob_CX.shape[1]):
            prob_CX[c, x] *= sum_X[x]


@compiled
def _resample(out_P: Array, prob_CX: Array, across_W: Taps) -> None:
    """Interpolate along the row and put the classes of a pixel side by side."""
    first, second, part = across_W
    C = prob_CX.shape[0]
    for x in range(len(part)):
        left, right, share = first[x], second[x], part[x]
        for c in range(C):
            out_P[x * C + c] = (ONE - share) * prob_CX[c, left] + share * prob_CX[c, right]


@compiled
def _add_mean(total_P: Array, above_P: Array, below_P: Array, part: np.float32) -> None:
    for i in range(len(total_P)):
        total_P[i] += (ONE - part) * above_P[i] + part * below_P[i]
