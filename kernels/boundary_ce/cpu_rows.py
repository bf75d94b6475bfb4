"""The inner loops of `cpu.py`: one row of cells, one row of labels, one tile of pixels.

Axes: C class, W pixels of a row, w cells of a row, Q the pixels of a row in the order of `Grid`,
I the pixels of a tile.
"""

from typing import Any, NamedTuple

import numpy as np

from kernels.cpu import Array, Bytes, compiled, exp, log

IGNORE_INDEX = 255
TILE = 128
"""Pixels whose logits and gradients, for 13 classes, fill 32 of the 48 KiB next to a core."""

LOWEST = np.float32(-64)
"""The lowest argument of the exponential, which is 1.6e-28 there: nothing beside a total of at
least 1, and its products stay far from the denormal numbers, which are a hundred times slower."""


class Targets(NamedTuple):
    """What pixels are held to: labels of images or of one, and a pixel's weight.

    The weight goes by whether the pixel is at an edge, and by its label; 0 where it is ignored.
    `ignored_edges` says that an ignored neighbour counts as class 0 instead of making no edge.
    """

    label: Bytes
    weight_2L: Array
    classes: int
    ignored_edges: bool


class Cells(NamedTuple):
    """A tile's rows of cells above and below its pixels, widened, and their gradients, or none."""

    upper_CI: Array
    lower_CI: Array
    upper_grad_GI: Array
    lower_grad_GI: Array


@compiled
def widen(wide_CQ: Array, row_Cw: Array, near_Q: Array, share_Q: Array) -> None:
    """Interpolate one row of cells, class by class, at every pixel of a row.

    Args:
        wide_CQ: written.
        row_Cw: the row's logits.
        near_Q: the cell before each pixel.
        share_Q: the share of the cell after it.
    """
    C, W = wide_CQ.shape
    w = near_Q[W - 1] + 1
    # Pixels stand in the order of `pixel_Q`: all that lie between cells 0 and 1, 1 and 2 .. at the
    # same place, then those at the next. So one run of pixels takes neighbouring cells, which is
    # one vector load; in the order of the image every pixel would gather its own.
    regular = W - W // w
    cell_w = np.empty(w, wide_CQ.dtype)
    for c in range(C):
        for x in range(w):
            cell_w[x] = row_Cw[c, x]
        for start in range(0, regular, max(w - 1, 1)):
            for x in range(w - 1):
                step = cell_w[x + 1] - cell_w[x]
                wide_CQ[c, start + x] = cell_w[x] + share_Q[start + x] * step
        for q in range(regular, W):
            near, far = cell_w[near_Q[q]], cell_w[min(near_Q[q] + 1, w - 1)]
            wide_CQ[c, q] = near + share_Q[q] * (far - near)


@compiled
def narrow(row_Cw: Array, wide_CQ: Array, near_Q: Array, share_Q: Array) -> None:
    """The transpose of `widen`: each cell gathers what the pixels round it owe it.

    Args:
        row_Cw: written.
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
            row_Cw[c, x] = near_w[x] + far_w[x]


@compiled
def weigh(
    own_Q: Array, weight_Q: Array, targets: Targets, row: int, pixel_Q: Array, count_3: Array
) -> None:
    """Labels and weights of one row of pixels, in the order of `pixel_Q`.

    Args:
        own_Q: written: the label of each pixel, 0 where it is ignored.
        weight_Q: written: class weight x boundary weight, 0 where it is ignored.
        targets: of one image; beyond its top and bottom, the rows there count once more.
        row: which row of pixels.
        pixel_Q: the order.
        count_3: pixels counted, those of them at edges, and labels out of range; added to.
    """
    label_HW, weight_2L, classes, ignored_edges = targets
    H, W = label_HW.shape
    above_W, below_W = label_HW[max(row - 1, 0)], label_HW[min(row + 1, H - 1)]
    label_W = label_HW[row]
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
    loss_I: Array, cells: Cells, share: Any, own_I: Array, weight_I: Array, tile_CI: Array
) -> None:
    """Add the loss and the gradient of a tile of one row of pixels.

    Args:
        loss_I: float64, added to.
        cells: the rows of cells round the pixels; their gradients are added to.
        share: share of the row below in the pixels' logits.
        own_I: label of each pixel.
        weight_I: weight of each pixel.
        tile_CI: scratch.
    """
    upper_CI, lower_CI, upper_grad_CI, lower_grad_CI = cells
    C, pixels = upper_CI.shape
    largest, total = np.empty(TILE, tile_CI.dtype), np.empty(TILE, tile_CI.dtype)
    # log-sum-exp by its largest logit: loss = log(sum(exp(z - top))) + top - z[own]. Class by class
    # over a tile that stays in the first-level cache, each loop one vector operation.
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
            tile_CI[c, i] = exp(tile_CI[c, i] - largest[i], LOWEST)
            total[i] += tile_CI[c, i]
    for i in range(pixels):
        loss_I[i] += weight_I[i] * log(total[i])
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
