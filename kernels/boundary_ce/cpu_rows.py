"""The inner loops of `cpu.py`: one row of cells, one row of labels, one tile of pixels.

Axes: C class, W pixels of a row, w cells of a row, Q the pixels of a row in the order of `Columns`,
I the pixels of a tile.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

IGNORE_INDEX = 255
TILE = 128
"""Pixels whose logits and gradients, for 13 classes, fill 32 of the 48 KiB next to a core."""

# exp(x) = 2^k exp(r), |r| <= ln(2) / 2, by the polynomial of Cephes' expf; log(x) = k ln(2) +
# log(m), m in [sqrt(1/2), sqrt(2)), by that of its logf. Every number is a float32, since one
# float64 would widen the loop. Adding MAGIC = 1.5 2^23 rounds to an integer, which then stands in
# the low bits. Below LOWEST the result stays exp(-64) = 1.6e-28: nothing beside a total of at least
# 1, and its products stay far from the denormal numbers, which are a hundred times slower.
LOWEST = np.float32(-64)
LOG2_E = np.float32(1.4426950408889634)
MAGIC = np.float32(12582912.0)
LN_2_HIGH = np.float32(0.693359375)
LN_2_LOW = np.float32(-2.12194440e-4)
E0 = np.float32(1.9875691500e-4)
E1 = np.float32(1.3981999507e-3)
E2 = np.float32(8.3334519073e-3)
E3 = np.float32(4.1665795894e-2)
E4 = np.float32(1.6666665459e-1)
E5 = np.float32(5.0000001201e-1)
L0 = np.float32(7.0376836292e-2)
L1 = np.float32(-1.1514610310e-1)
L2 = np.float32(1.1676998740e-1)
L3 = np.float32(-1.2420140846e-1)
L4 = np.float32(1.4249322787e-1)
L5 = np.float32(-1.6668057665e-1)
L6 = np.float32(2.0000714765e-1)
L7 = np.float32(-2.4999993993e-1)
L8 = np.float32(3.3333331174e-1)
ONE = np.float32(1)
HALF = np.float32(0.5)
MANTISSA_BITS = np.int32(23)
BITS_OF_ONE = np.int32(127 << 23)
BITS_OF_ROOT_HALF = np.int32(0x3F3504F3)

# Contraction to fused multiply-adds is the only liberty: sums keep their order.
FAST = {"contract"}
compiled = numba.njit(cache=True, fastmath=FAST, error_model="numpy")

Array = NDArray[Any]


@compiled
def widen(
    wide_CQ: Array, row: Array, stride_C: int, stride_w: int, near_Q: Array, share_Q: Array
) -> None:
    """Interpolate one row of cells, class by class, at every pixel of a row.

    Args:
        wide_CQ: written.
        row: 1-D view that starts at the row's first logit.
        stride_C: from class to class in `row`.
        stride_w: from cell to cell in `row`.
        near_Q: the cell before each pixel.
        share_Q: the share of the cell after it.
    """
    C, W = wide_CQ.shape
    w = near_Q[W - 1] + 1
    regular = W - W // w
    cell_w = np.empty(w, wide_CQ.dtype)
    for c in range(C):
        for x in range(w):
            cell_w[x] = row[c * stride_C + x * stride_w]
        for start in range(0, regular, max(w - 1, 1)):
            for x in range(w - 1):
                step = cell_w[x + 1] - cell_w[x]
                wide_CQ[c, start + x] = cell_w[x] + share_Q[start + x] * step
        for q in range(regular, W):
            near, far = cell_w[near_Q[q]], cell_w[min(near_Q[q] + 1, w - 1)]
            wide_CQ[c, q] = near + share_Q[q] * (far - near)


@compiled
def narrow(
    row: Array, stride_C: int, stride_w: int, wide_CQ: Array, near_Q: Array, share_Q: Array
) -> None:
    """The transpose of `widen`: each cell gathers what the pixels round it owe it.

    Args:
        row: 1-D view that starts at the row's first number; the row is written.
        stride_C: from class to class in `row`.
        stride_w: from cell to cell in `row`.
        wide_CQ: gradient of every pixel of a row.
        near_Q: the cell before each pixel.
        share_Q: the share of the cell after it.
    """
    C, W = wide_CQ.shape
    w = near_Q[W - 1] + 1
    regular = W - W // w
    near_w, far_w = np.empty(w, wide_CQ.dtype), np.empty(w, wide_CQ.dtype)
    for c in range(C):
        near_w[:] = 0
        far_w[:] = 0
        for start in range(0, regular, max(w - 1, 1)):
            for x in range(w - 1):
                far = share_Q[start + x] * wide_CQ[c, start + x]
                near_w[x] += wide_CQ[c, start + x] - far
                far_w[x + 1] += far
        for q in range(regular, W):
            far = share_Q[q] * wide_CQ[c, q]
            near_w[near_Q[q]] += wide_CQ[c, q] - far
            far_w[min(near_Q[q] + 1, w - 1)] += far
        for x in range(w):
            row[c * stride_C + x * stride_w] = near_w[x] + far_w[x]


@compiled
def weigh(
    own_Q: Array,
    weight_Q: Array,
    above_W: Array,
    label_W: Array,
    below_W: Array,
    pixel_Q: Array,
    weight_2L: Array,
    classes: int,
    ignored_edges: bool,
    count_3: Array,
) -> None:
    """Labels and weights of one row of pixels, in the order of `pixel_Q`.

    Args:
        own_Q: written: the label of each pixel, 0 where it is ignored.
        weight_Q: written: class weight x boundary weight, 0 where it is ignored.
        above_W: labels of the row above; at the top of the image `label_W` itself.
        label_W: labels of the row.
        below_W: labels of the row below, likewise.
        pixel_Q: the order.
        weight_2L: weight of a pixel by whether it is an edge, and its label.
        classes: number of classes.
        ignored_edges: an ignored neighbour counts as class 0 instead of making no edge.
        count_3: pixels counted, those of them at edges, and labels out of range; added to.
    """
    W = len(label_W)
    # An ignored neighbour is the largest label and, one added, the smallest: it wins neither.
    least, most = np.empty(W + 2, np.uint8), np.empty(W + 2, np.uint8)
    other = np.uint8(0 if ignored_edges else IGNORE_INDEX)
    for x in range(W):
        a = other if above_W[x] == IGNORE_INDEX else above_W[x]
        b = other if label_W[x] == IGNORE_INDEX else label_W[x]
        c = other if below_W[x] == IGNORE_INDEX else below_W[x]
        least[x + 1] = min(a, b, c)
        most[x + 1] = max(_next(a), _next(b), _next(c))
    least[0], most[0], least[W + 1], most[W + 1] = least[1], most[1], least[W], most[W]
    edge_W = np.empty(W, np.uint8)
    counted = edges = misfits = 0
    for x in range(W):
        low = min(least[x], least[x + 1], least[x + 2])
        high = max(most[x], most[x + 1], most[x + 2])
        edge_W[x] = _next(low) != high
        valid = label_W[x] != IGNORE_INDEX
        counted += valid
        edges += valid & (edge_W[x] != 0)
        misfits += valid & (label_W[x] >= classes)
    count_3[0] += counted
    count_3[1] += edges
    count_3[2] += misfits
    for q in range(W):
        label = label_W[pixel_Q[q]]
        own_Q[q] = label if label < classes else 0
        weight_Q[q] = weight_2L[edge_W[pixel_Q[q]], label]


@compiled
def _next(label: Any) -> Any:
    return np.uint8(label + np.uint8(1))


@compiled
def sweep_tile(
    loss_I: Array,
    upper_grad_CI: Array,
    lower_grad_CI: Array,
    upper_CI: Array,
    lower_CI: Array,
    share: Any,
    own_I: Array,
    weight_I: Array,
    tile_CI: Array,
) -> None:
    """Add the loss and the gradient of a tile of one row of pixels.

    Args:
        loss_I: float64, added to.
        upper_grad_CI: gradient of the row of cells above the pixels, widened; added to, or empty.
        lower_grad_CI: likewise of the row below.
        upper_CI: the row of cells above the pixels, widened.
        lower_CI: the row below.
        share: share of the row below in the pixels' logits.
        own_I: label of each pixel.
        weight_I: weight of each pixel.
        tile_CI: scratch.
    """
    C, pixels = upper_CI.shape
    largest, total = np.empty(TILE, tile_CI.dtype), np.empty(TILE, tile_CI.dtype)
    for c in range(C):
        for i in range(pixels):
            logit = upper_CI[c, i] + share * (lower_CI[c, i] - upper_CI[c, i])
            tile_CI[c, i] = logit
            largest[i] = logit if c == 0 else max(largest[i], logit)
    for i in range(pixels):
        loss_I[i] += weight_I[i] * (largest[i] - tile_CI[own_I[i], i])
        total[i] = 0
    for c in range(C):
        for i in range(pixels):
            tile_CI[c, i] = _exp(tile_CI[c, i] - largest[i])
            total[i] += tile_CI[c, i]
    for i in range(pixels):
        loss_I[i] += weight_I[i] * _log(total[i])
    if len(upper_grad_CI) == 0:
        return
    for i in range(pixels):
        # softmax minus one-hot, before the division by the total
        tile_CI[own_I[i], i] -= total[i]
        total[i] = weight_I[i] / total[i]
    for c in range(C):
        for i in range(pixels):
            slope = total[i] * tile_CI[c, i]
            lower = share * slope
            upper_grad_CI[c, i] += slope - lower
            lower_grad_CI[c, i] += lower


def _exp(x: Any) -> Any:
    """Of a number that is not positive; `_exp_of` is what LLVM can make vectors of."""
    return np.exp(x)


def _log(x: Any) -> Any:
    """Of a number from 1 to the number of classes, likewise."""
    return np.log(x)


@overload(_exp, jit_options={"fastmath": FAST})
def _exp_of(x: Any) -> Callable[[Any], Any]:
    def exp32(x: Any) -> Any:
        x = LOWEST if x < LOWEST else x
        shifted = x * LOG2_E + MAGIC
        k = shifted - MAGIC
        r = x - k * LN_2_HIGH - k * LN_2_LOW
        series = ((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5
        power = np.int32((np.float32(shifted).view(np.int32) << MANTISSA_BITS) + BITS_OF_ONE)
        return power.view(np.float32) * (series * r * r + r + ONE)

    def exp64(x: Any) -> Any:
        return math.exp(x)

    return exp32 if x == types.float32 else exp64


@overload(_log, jit_options={"fastmath": FAST})
def _log_of(x: Any) -> Callable[[Any], Any]:
    def log32(x: Any) -> Any:
        bits = np.float32(x).view(np.int32)
        # The exponent that leaves a mantissa from sqrt(1/2) to sqrt(2).
        exponent = np.int32((bits - BITS_OF_ROOT_HALF) >> MANTISSA_BITS)
        r = np.int32(bits - np.int32(exponent << MANTISSA_BITS)).view(np.float32) - ONE
        k = np.float32(exponent)
        series = (((L0 * r + L1) * r + L2) * r + L3) * r + L4
        series = (((series * r + L5) * r + L6) * r + L7) * r + L8
        square = r * r
        return k * LN_2_HIGH + (r + (series * r * square + k * LN_2_LOW - HALF * square))

    def log64(x: Any) -> Any:
        return math.log(x)

    return log32 if x == types.float32 else log64
