"""Accumulation of one view on the CPU: Numba, parallel over strips of base rows.

A strip makes each view row that it needs once: logits between cells, softmax at every temperature,
resampled along the row to the base width, the classes of a pixel side by side. Two such rows are
kept, and a base row is their mean: nothing of the view's full size ever exists.

Axes: B batch, T temperature, C class, H W base pixels, V X view rows and columns, h w strided
cells, P = W C the classes of a base row's pixels, one after another.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

STRIP = 16
"""Base rows a task: it makes up to two view rows that its neighbours make too."""

# exp(x) = 2^k exp(r), |r| <= ln(2) / 2, by the polynomial of Cephes' expf: within 1.01 ulp. Every
# number is a float32, since one float64 would widen the loop. Adding MAGIC = 1.5 2^23 rounds to an
# integer, which then stands in the low bits. Below LOWEST the result would not be a normal number.
LOWEST = np.float32(-87.33654)
LOG2_E = np.float32(1.4426950408889634)
MAGIC = np.float32(12582912.0)
LN_2_HIGH = np.float32(0.693359375)
LN_2_LOW = np.float32(-2.12194440e-4)
P0 = np.float32(1.9875691500e-4)
P1 = np.float32(1.3981999507e-3)
P2 = np.float32(8.3334519073e-3)
P3 = np.float32(4.1665795894e-2)
P4 = np.float32(1.6666665459e-1)
P5 = np.float32(5.0000001201e-1)
ONE = np.float32(1)
MANTISSA_BITS = np.int32(23)
BITS_OF_ONE = np.int32(127 << 23)

Array = NDArray[np.float32]

# Contraction to fused multiply-adds is the only liberty: sums keep their order.
_compiled = numba.njit(cache=True, fastmath={"contract"}, error_model="numpy")
_parallel = numba.njit(cache=True, fastmath={"contract"}, error_model="numpy", parallel=True)


class Taps(NamedTuple):
    """Where a linear interpolation reads: (1 - part) a[first] + part a[second]."""

    first: NDArray[np.uint32]
    second: NDArray[np.uint32]
    part: Array


def accumulate(
    total_TBHP: Array,
    logits: Array,
    strides_BChw: tuple[int, ...],
    cells_hw: tuple[int, int],
    temperatures: Array,
    classes: int,
    view_hw: tuple[int, int],
    *,
    flipped: bool,
    align_corners: bool,
) -> None:
    """Add one view to the total, in place.

    Args:
        total_TBHP: (T, B, H, W * C) C-contiguous.
        logits: 1-D; logit (b, c, y, x) stands at the dot product of these with `strides_BChw`.
        strides_BChw: strides of the logits in elements, none negative.
        cells_hw: height and width of the logits.
        temperatures: (T,), positive.
        classes: number of classes C.
        view_hw: size of the view, pixels.
        flipped: the view was mirrored left to right.
        align_corners: how the logits are upsampled to the view.
    """
    base_h, base_w = total_TBHP.shape[2], total_TBHP.shape[3] // classes
    across_W = taps(base_w, view_hw[1], align_corners=False)
    if flipped:
        last = np.uint32(view_hw[1] - 1)
        across_W = Taps(last - across_W.first, last - across_W.second, across_W.part)
    _add_strips(
        total_TBHP,
        logits,
        strides_BChw,
        classes,
        cells_hw[1],
        taps(view_hw[0], cells_hw[0], align_corners),
        taps(view_hw[1], cells_hw[1], align_corners),
        taps(base_h, view_hw[0], align_corners=False),
        across_W,
        np.reciprocal(temperatures),
    )


def taps(size: int, source: int, align_corners: bool) -> Taps:
    """The taps of a resampling from `source` to `size` points, placed as `interpolate` does.

    Positions are ratios of integers, so `part` is within half an ulp.
    """
    at = np.arange(size)
    if align_corners:
        numerator, denominator = at * (source - 1), max(size - 1, 1)
    else:
        numerator, denominator = np.maximum((2 * at + 1) * source - size, 0), 2 * size
    first, rest = np.divmod(numerator, denominator)
    second = np.minimum(first + 1, source - 1)
    part = (rest / denominator).astype(np.float32)
    return Taps(first.astype(np.uint32), second.astype(np.uint32), part)


@_parallel
def _add_strips(
    total_TBHP: Array,
    logits: Array,
    strides_BChw: tuple[int, ...],
    C: int,
    w: int,
    down_V: Taps,
    right_X: Taps,
    down_H: Taps,
    across_W: Taps,
    inverse_T: Array,
) -> None:
    T, B, H, P = total_TBHP.shape
    strips = (H + STRIP - 1) // STRIP
    for task in numba.prange(B * strips):
        b, top = task // strips, task % strips * STRIP
        ring_2TP = np.empty((2, T, P), np.float32)
        held = np.full(2, -1)
        cells_Cw = np.empty((C, w), np.float32)
        logits_CX = np.empty((C, len(right_X.part)), np.float32)
        prob_CX = np.empty_like(logits_CX)
        sum_X = np.empty_like(right_X.part)
        for y in range(top, min(top + STRIP, H)):
            first, second, part = down_H.first[y], down_H.second[y], down_H.part[y]
            for row in (first, second):
                # Neighbouring rows differ in parity, so that neither takes the other's place.
                if held[row % 2] != row:
                    held[row % 2] = row
                    _mix_cells(cells_Cw, logits, b, strides_BChw, row, down_V)
                    _spread(logits_CX, cells_Cw, right_X)
                    _subtract_largest(logits_CX, sum_X)
                    for t in range(T):
                        _softmax(prob_CX, sum_X, logits_CX, inverse_T[t])
                        _resample(ring_2TP[row % 2, t], prob_CX, across_W)
            for t in range(T):
                _add_mean(
                    total_TBHP[t, b, y], ring_2TP[first % 2, t], ring_2TP[second % 2, t], part
                )


@_compiled
def _mix_cells(
    cells_Cw: Array,
    logits: Array,
    b: int,
    strides_BChw: tuple[int, ...],
    row: int,
    down_V: Taps,
) -> None:
    """The row of logits at height `row` of the view, still at the cells' width."""
    C, w = cells_Cw.shape
    part = down_V.part[row]
    for c in range(C):
        start = b * strides_BChw[0] + c * strides_BChw[1]
        above = start + int(down_V.first[row]) * strides_BChw[2]
        below = start + int(down_V.second[row]) * strides_BChw[2]
        for x in range(w):
            step = x * strides_BChw[3]
            cells_Cw[c, x] = (ONE - part) * logits[above + step] + part * logits[below + step]


@_compiled
def _spread(out_CX: Array, cells_Cw: Array, right_X: Taps) -> None:
    """Interpolate along the row."""
    first, second, part = right_X
    for c in range(out_CX.shape[0]):
        for x in range(out_CX.shape[1]):
            near, far = cells_Cw[c, first[x]], cells_Cw[c, second[x]]
            out_CX[c, x] = (ONE - part[x]) * near + part[x] * far


@_compiled
def _subtract_largest(logits_CX: Array, largest_X: Array) -> None:
    """Make the largest logit of each pixel 0, in place; the other array is scratch."""
    largest_X[:] = logits_CX[0]
    for c in range(1, logits_CX.shape[0]):
        for x in range(logits_CX.shape[1]):
            largest_X[x] = max(largest_X[x], logits_CX[c, x])
    for c in range(logits_CX.shape[0]):
        for x in range(logits_CX.shape[1]):
            logits_CX[c, x] -= largest_X[x]


@_compiled
def _softmax(prob_CX: Array, sum_X: Array, logits_CX: Array, inverse: np.float32) -> None:
    sum_X[:] = 0
    for c in range(prob_CX.shape[0]):
        for x in range(prob_CX.shape[1]):
            prob_CX[c, x] = _exp(logits_CX[c, x] * inverse)
            sum_X[x] += prob_CX[c, x]
    for x in range(len(sum_X)):
        sum_X[x] = ONE / sum_X[x]
    for c in range(prob_CX.shape[0]):
        for x in range(prob_CX.shape[1]):
            prob_CX[c, x] *= sum_X[x]


@_compiled
def _exp(x: np.float32) -> np.float32:
    """The exponential of a number that is not positive; NaN stays NaN."""
    x = LOWEST if x < LOWEST else x
    shifted = x * LOG2_E + MAGIC
    k = shifted - MAGIC
    r = x - k * LN_2_HIGH - k * LN_2_LOW
    series = ((((P0 * r + P1) * r + P2) * r + P3) * r + P4) * r + P5
    power = np.int32((np.float32(shifted).view(np.int32) << MANTISSA_BITS) + BITS_OF_ONE)
    return power.view(np.float32) * (series * r * r + r + ONE)


@_compiled
def _resample(out_P: Array, prob_CX: Array, across_W: Taps) -> None:
    """Interpolate along the row and put the classes of a pixel side by side."""
    first, second, part = across_W
    C = prob_CX.shape[0]
    for x in range(len(part)):
        left, right, share = first[x], second[x], part[x]
        for c in range(C):
            out_P[x * C + c] = (ONE - share) * prob_CX[c, left] + share * prob_CX[c, right]


@_compiled
def _add_mean(total_P: Array, above_P: Array, below_P: Array, part: np.float32) -> None:
    for i in range(len(total_P)):
        total_P[i] += (ONE - part) * above_P[i] + part * below_P[i]
