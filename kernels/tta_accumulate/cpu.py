"""Accumulation of views on the CPU: Numba, parallel over strips of base rows.

A strip adds view after view while the caches hold its part of the sum. It makes each view row that
it needs once: logits between cells, softmax at every temperature, resampled along the row to the
base width. Two such rows are kept, and a base row is their mean: nothing of the view's full size
ever exists. Maxima and sums over classes are taken of rows of one class, interpolation of pixels
whose classes lie side by side; between the two a row is transposed.

Axes: B batch, T temperature, C class, K classes in whole vectors, H W base pixels, V X view rows
and columns (X in whole vectors), J columns of a block, h w strided cells, N views, P = W C the
classes of a base row's pixels, one after another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba import float32, int64
from torch import Tensor

from kernels.cpu import ONE, TAPS, Array, Integers, Taps, compiled, exp, parallel, taps, typed
from kernels.threads import cpu_threads
from kernels.tta_accumulate.cpu_vector import lerp_row, padded, transpose
from kernels.tta_accumulate.reference import View
from kernels.tta_accumulate.tables import row_taps
from kernels.vectors import LANES

STRIP_BYTES, MOST_ROWS = 1 << 20, 16
"""Of the sum, base rows a task: within a core's cache. A view makes up to two rows of each strip
that its neighbours make too."""

BLOCK = 256
"""Columns of a view, whole vectors, whose logits and exponentials the first-level cache holds."""

LOWEST = np.float32(-87.33654)
"""The lowest argument of the exponential: below it the result would not be a normal number."""


class Total(NamedTuple):
    """The sum that is added to, the inverse of each of its temperatures, and its C."""

    sum_TBHP: Array
    inverse_T: Array
    classes: int


class Views(NamedTuple):
    """Logits and tables of all views, each view's behind those of the one before.

    Attributes:
        size_N4: h, w, V and X of each.
        cells: logits of each, (B, h, w, C), and a vector of zeros.
        taps: of each, from cells to its rows and columns, from rows and columns to the base's.
    """

    size_N4: Integers
    cells: Array
    taps: Taps


class Scratch(NamedTuple):
    """Rows of a view, in a core's cache, with room for a vector behind each that has none."""

    row_w: Array
    """cells between two rows of cells, their classes side by side"""
    pixel_TXK: Array
    """first logits, then probabilities at each temperature"""
    class_KJ: Array
    """logits of a block, the largest of which is 0"""
    prob_KJ: Array
    sum_J: Array
    ones_K: Array


@cpu_threads()
def accumulate(
    total_BTCHW: Tensor,
    logits: Sequence[Tensor],
    temperatures: Sequence[float],
    views: Sequence[View],
) -> None:
    """Add views to the total, in place; see `op.tta_accumulate`."""
    _, T, C, H, W = total_BTCHW.shape
    total_TBHWC = total_BTCHW.permute(1, 0, 3, 4, 2)
    in_order = total_TBHWC.is_contiguous()
    sum_TBHWC = total_TBHWC if in_order else torch.zeros(total_TBHWC.shape)
    inverse_T = np.reciprocal(np.array(temperatures, np.float32))
    total = Total(sum_TBHWC.view(T, -1, H, W * C).numpy(), inverse_T, C)
    rows = min(max(STRIP_BYTES // (4 * T * W * C), 1), MOST_ROWS)
    _add_strips(total, *_gather((H, W), logits, views), rows)
    if not in_order:
        total_TBHWC += sum_TBHWC


def _gather(hw: tuple[int, int], logits: Sequence[Tensor], views: Sequence[View]) -> Views:
    sizes, flat, tables = [], [], []
    for logits_BChw, view in zip(logits, views, strict=True):
        (h, w), (V, X), (H, W) = logits_BChw.shape[2:], view.hw, hw
        sizes.append((h, w, V, X))
        flat.append(logits_BChw.permute(0, 2, 3, 1).reshape(-1).to(torch.float32))
        across_W = taps(W, X, np.float32)
        # Mirroring back is free: the output's columns read the view from its other end.
        if view.flipped:
            last = np.uint32(X - 1)
            across_W = Taps(last - across_W.first, last - across_W.second, across_W.part)
        down_V, down_H = row_taps(view, h, H)
        right_X = taps(X, w, np.float32, align_corners=view.align_corners)
        tables += [down_V, right_X, down_H, across_W]
    cells = torch.cat([*flat, torch.zeros(LANES)]).numpy()
    joined = Taps(*map(np.concatenate, zip(*tables, strict=True)))
    return Views(np.array(sizes, np.int64), cells, joined)


@parallel
def _add_strips(total: Total, size_N4: Integers, cells: Array, table: Taps, rows: int) -> None:
    _, B, H, _ = total.sum_TBHP.shape
    strips = (H + rows - 1) // rows
    for task in numba.prange(B * strips):
        b, top = task // strips, task % strips * rows
        _add_views(total, size_N4, cells, table, b, (top, min(top + rows, H)))


@compiled
def _add_views(
    total: Total, size_N4: Integers, cells: Array, table: Taps, b: int, rows: tuple[int, int]
) -> None:
    """Add frame `b` of all views to base rows, from one to before another."""
    (T, B, H, P), C = total.sum_TBHP.shape, total.classes
    W, K, wide = P // C, padded(C), 0
    for n in range(len(size_N4)):
        wide = max(wide, size_N4[n, 1], size_N4[n, 3])
    X = padded(wide)
    # Two rows of the view at a time are resized down to the output's, in a scratch that stays in
    # the cache: a whole view of probabilities, T C X V floats, is never in memory.
    ring_2TP, held_2 = np.empty((2, T, P + LANES), np.float32), np.empty(2, np.int64)
    scratch = Scratch(
        np.zeros(wide * C + LANES, np.float32),
        np.zeros((T, X, K), np.float32),
        np.zeros((K, BLOCK), np.float32),
        np.zeros((K, BLOCK), np.float32),
        np.zeros(BLOCK, np.float32),
        np.ones(K, np.float32),
    )
    cell, tap = 0, 0
    for n in range(len(size_N4)):
        h, w, height, width = size_N4[n]
        line, cell = cell + b * h * w * C, cell + B * h * w * C
        down_V, tap = _part(table, tap, height), tap + height
        right_X, tap = _part(table, tap, width), tap + width
        down_H, tap = _part(table, tap, H), tap + H
        across_W, tap = _part(table, tap, W), tap + W
        held_2[:] = -1
        for y in range(rows[0], rows[1]):
            first, second, part = down_H.first[y], down_H.second[y], down_H.part[y]
            for row in (first, second):
                # Neighbouring rows differ in parity, so that neither takes the other's place.
                if held_2[row % 2] != row:
                    held_2[row % 2] = row
                    above, below = down_V.first[row], down_V.second[row]
                    upper_l = cells[line + above * w * C : line + (above + 1) * w * C]
                    lower_l = cells[line + below * w * C : line + (below + 1) * w * C]
                    _mean(scratch.row_w, upper_l, lower_l, down_V.part[row])
                    _make_row(ring_2TP[row % 2], scratch, C, right_X, across_W, total.inverse_T)
            upper_TP, lower_TP = ring_2TP[first % 2], ring_2TP[second % 2]
            for t in range(T):
                _add_mean(total.sum_TBHP[t, b, y], upper_TP[t], lower_TP[t], part)


SPECIALISATIONS = (
    (
        _add_strips,
        (
            typed(Total, float32[:, :, :, ::1], float32[::1], int64),
            int64[:, ::1],
            float32[::1],
            TAPS,
            int64,
        ),
    ),
)
"""What training calls, see `kernels.ahead`."""


@compiled
def _part(table: Taps, start: int, count: int) -> Taps:
    stop = start + count
    return Taps(table.first[start:stop], table.second[start:stop], table.part[start:stop])


@compiled
def _mean(out_l: Array, upper_l: Array, lower_l: Array, part: np.float32) -> None:
    for i in range(len(upper_l)):
        out_l[i] = (ONE - part) * upper_l[i] + part * lower_l[i]


@compiled
def _make_row(
    out_TP: Array, scratch: Scratch, C: int, right_X: Taps, across_W: Taps, inverse_T: Array
) -> None:
    """Make a row of probabilities of a row of cells, at the base width and each temperature."""
    row_w, pixel_TXK, class_KJ, prob_KJ, sum_J, ones_K = scratch
    X, K, T = len(right_X.part), len(ones_K), len(inverse_T)
    lerp_row(row_w, C, right_X, pixel_TXK[0].reshape(-1), K, True)
    for start in range(0, X, BLOCK):
        count = min(BLOCK, X - start)
        transpose(pixel_TXK[0, start:], ones_K, class_KJ, padded(count), K)
        # Subtracted once for all temperatures: the largest of z is the largest of z / T.
        _subtract_largest(class_KJ, sum_J, C, count)
        for t in range(T):
            _softmax(prob_KJ, sum_J, class_KJ, inverse_T[t], C, count)
            transpose(prob_KJ, sum_J, pixel_TXK[t, start:], K, padded(count))
    for t in range(T):
        lerp_row(pixel_TXK[t].reshape(-1), K, across_W, out_TP[t], C, False)


@compiled
def _subtract_largest(logits_KJ: Array, largest_J: Array, C: int, J: int) -> None:
    """Make the largest logit of each pixel 0, in place; the other array is scratch."""
    for x in range(J):
        largest_J[x] = logits_KJ[0, x]
    for c in range(1, C):
        for x in range(J):
            largest_J[x] = max(largest_J[x], logits_KJ[c, x])
    for c in range(C):
        for x in range(J):
            logits_KJ[c, x] -= largest_J[x]


@compiled
def _softmax(
    exp_KJ: Array, inverse_J: Array, logits_KJ: Array, inverse: np.float32, C: int, J: int
) -> None:
    """Exponentials of logits / T, and the inverse of their sum."""
    inverse_J[:J] = 0
    for c in range(C):
        for x in range(J):
            exp_KJ[c, x] = exp(logits_KJ[c, x] * inverse, LOWEST)
            inverse_J[x] += exp_KJ[c, x]
    for x in range(J):
        inverse_J[x] = ONE / inverse_J[x]


@compiled
def _add_mean(total_P: Array, above_P: Array, below_P: Array, part: np.float32) -> None:
    for i in range(len(total_P)):
        total_P[i] += (ONE - part) * above_P[i] + part * below_P[i]
