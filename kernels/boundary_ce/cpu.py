"""Boundary-weighted cross-entropy on the CPU: Numba, loss and gradient in one sweep of the pixels.

The loss is a sum over pixels, divided at the very end, so a pixel's share of the gradient is known
as soon as its softmax is. A task walks down a few rows of cells. Two rows of cells lie widened to
the width of the pixels in a buffer of a few hundred KiB, and two rows of gradient beside them: the
pixel rows between them are interpolated from the first pair and added into the second, in tiles
that stay in the first-level cache. Nothing of the labels' full size is ever stored.

Axes: B batch, C class, H W pixels, h w strided cells, Q the pixels of a row in another order (see
`Grid`), I the pixels of a tile, R the pixel rows between two rows of cells.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba import boolean, float32, float64, int64, uint8, uint32
from numpy.typing import NDArray
from torch import Tensor

from kernels.boundary_ce.cpu_rows import TILE, Cells, Targets, narrow, sweep_tile, weigh, widen
from kernels.boundary_ce.reference import IGNORE_INDEX, Weights
from kernels.cpu import Array, Doubles, Integers, compiled, parallel, taps, typed
from kernels.threads import cpu_threads

NO_LABEL = 254
"""Stands for int64 labels that no uint8 holds: as wrong as they are."""

CHUNK = 8
"""Rows of cells a task: it widens one row that the next one widens too."""


class Grid(NamedTuple):
    """Where the pixels lie between the cells.

    Pixel rows first_h[y] .. first_h[y + 1] lie between cell rows y and y + 1, `down_H` of the way.
    The pixels of a row are ordered so that interpolating them reads the cells in order. Between two
    neighbouring cells lie at least `stride` pixels. Place k (w - 1) + x holds the k-th of those
    that follow cell x; the last `stride` places hold the pixels that are left. `pixel_Q` is that
    order, `near_Q` the cell before each pixel, `across_Q` how much of the way it is to the next.
    """

    first_h: Integers
    down_H: Array
    pixel_Q: Integers
    near_Q: NDArray[np.uint32]
    across_Q: Array


@cpu_threads()
def sweep(
    logits_BChw: Tensor, slope: Tensor, label_BHW: Tensor, weights: Weights, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Sum the loss over the pixels, and its gradient over the pixels of each cell.

    Args:
        logits_BChw: in a layout that fills its memory.
        slope: gradient of the numerator with respect to the logits, in their layout: every element
            is written; or empty, to leave it out.
        label_BHW: contiguous, 0 .. C-1 or 255; H and W the same multiple of h and w.
        weights: what pixels weigh, of the slope's dtype.
        align_corners: how the logits are upsampled.

    Returns:
        Numerator and sum of weights, float64 scalars; the same to the bit whatever the number of
        threads.

    Raises:
        ValueError: a label is neither a class nor 255.
    """
    if label_BHW.dtype != torch.uint8:
        fits = (label_BHW >= 0) & (label_BHW <= IGNORE_INDEX)
        label_BHW = label_BHW.where(fits, NO_LABEL).to(torch.uint8)
    B, C, h, w = logits_BChw.shape
    logits = logits_BChw.detach().to(slope.dtype).numpy()
    weight_2L = np.zeros((2, 256), logits.dtype)
    weight_2L[:, :C] = np.outer([1.0, weights.boundary], weights.class_C.numpy())
    tasks = B * -(-h // CHUNK)
    spill_KCw = np.empty((tasks if slope.numel() else 0, C, w), logits.dtype)
    # Not to be compiled twice, without a gradient it gets an array of the same type.
    gradient = slope.numpy() if slope.numel() else logits
    grid = _grid((h, w), label_BHW.shape[1] // h, align_corners, logits.dtype)
    targets = Targets(label_BHW.numpy(), weight_2L, C, weights.ignored_edges)
    sums_4K = np.zeros((4, tasks))
    _sweep_chunks(logits, gradient, spill_KCw, targets, grid, sums_4K)
    numerator, counted, edges, misfits = sums_4K.sum(axis=1).tolist()
    if misfits:
        raise ValueError(f"labels must be 0 .. {C - 1} or 255 = ignore")
    weight = (counted - edges) + weights.boundary * edges
    sums_2 = torch.tensor([numerator, weight], dtype=torch.float64)
    return sums_2[0], sums_2[1]


def _grid(cells_hw: tuple[int, int], stride: int, align_corners: bool, dtype: Any) -> Grid:
    down, across = (
        taps(cells * stride, cells, dtype, align_corners=align_corners) for cells in cells_hw
    )
    h, w = cells_hw
    regular = np.searchsorted(across.first, np.arange(w - 1)) + np.arange(stride)[:, None]
    rest = np.setdiff1d(np.arange(w * stride), regular)
    pixel_Q = np.concatenate([regular.ravel(), rest])
    first_h = np.searchsorted(down.first, np.arange(h + 1))
    return Grid(first_h, down.part, pixel_Q, across.first[pixel_Q], across.part[pixel_Q])


@parallel
def _sweep_chunks(
    logits_BChw: Array,
    gradient_BChw: Array,
    spill_KCw: Array,
    targets: Targets,
    grid: Grid,
    sums_4K: Doubles,
) -> None:
    """Sums by task: the loss; pixels counted, those of them at edges, and labels out of range."""
    h = logits_BChw.shape[2]
    chunks = -(-h // CHUNK)
    for task in numba.prange(sums_4K.shape[1]):
        b, top = task // chunks, task % chunks * CHUNK
        own = Targets(targets.label[b], targets.weight_2L, targets.classes, targets.ignored_edges)
        sums_4K[0, task], count_3 = _sweep_chunk(
            logits_BChw[b], gradient_BChw[b], spill_KCw[task : task + 1], own, grid, top
        )
        for k in range(3):
            sums_4K[1 + k, task] = count_3[k]
    # The first row of a task also gets what the task above it found between the two.
    for task in numba.prange(len(spill_KCw)):
        below = (task % chunks + 1) * CHUNK
        if below < h:
            for x in range(spill_KCw.shape[2]):
                for c in range(spill_KCw.shape[1]):
                    gradient_BChw[task // chunks, c, below, x] += spill_KCw[task, c, x]


SPECIALISATIONS = (
    (
        _sweep_chunks,
        (
            float32[:, :, :, :],
            float32[:, :, :, :],
            float32[:, :, ::1],
            typed(Targets, uint8[:, :, ::1], float32[:, ::1], int64, boolean),
            typed(Grid, int64[::1], float32[::1], int64[::1], uint32[::1], float32[::1]),
            float64[:, ::1],
        ),
    ),
)
"""What training calls, see `kernels.ahead`."""


@compiled
def _sweep_chunk(
    logits_Chw: Array, gradient_Chw: Array, spill_1Cw: Array, targets: Targets, grid: Grid, top: int
) -> tuple[float, Integers]:
    """Sweep the pixels below cell rows top .. top + CHUNK - 1; their loss and what is counted."""
    (C, h, _), W, real = logits_Chw.shape, targets.label.shape[1], logits_Chw.dtype
    R, G = 0, C * len(spill_1Cw)
    for y in range(h):
        R = max(R, grid.first_h[y + 1] - grid.first_h[y])
    own_RQ, weight_RQ = np.empty((R, W), np.int32), np.empty((R, W), real)
    upper_CQ, lower_CQ = np.empty((C, W), real), np.empty((C, W), real)
    upper_grad_GQ, lower_grad_GQ = np.zeros((G, W), real), np.zeros((G, W), real)
    tile_CI, loss_I, count_3 = np.empty((C, TILE), real), np.zeros(TILE), np.zeros(3, np.int64)
    near_Q, across_Q = grid.near_Q, grid.across_Q
    widen(lower_CQ, logits_Chw[:, top], near_Q, across_Q)
    for y in range(top, min(top + CHUNK, h)):
        upper_CQ, lower_CQ = lower_CQ, upper_CQ
        upper_grad_GQ, lower_grad_GQ = lower_grad_GQ, upper_grad_GQ
        lower_grad_GQ[:] = 0
        widen(lower_CQ, logits_Chw[:, min(y + 1, h - 1)], near_Q, across_Q)
        first, end = grid.first_h[y], grid.first_h[y + 1]
        for row in range(first, end):
            own_Q, weight_Q = own_RQ[row - first], weight_RQ[row - first]
            weigh(own_Q, weight_Q, targets, row, grid.pixel_Q, count_3)
        for left in range(0, W, TILE):
            tile = slice(left, min(left + TILE, W))
            cells = Cells(
                upper_CQ[:, tile], lower_CQ[:, tile], upper_grad_GQ[:, tile], lower_grad_GQ[:, tile]
            )
            for row in range(first, end):
                own_I, weight_I = own_RQ[row - first, tile], weight_RQ[row - first, tile]
                sweep_tile(loss_I, cells, grid.down_H[row], own_I, weight_I, tile_CI)
        if G:
            if y == h - 1:
                # There is no row below: both were this one.
                for c in range(G):
                    for q in range(W):
                        upper_grad_GQ[c, q] += lower_grad_GQ[c, q]
            narrow(gradient_Chw[:, y], upper_grad_GQ, near_Q, across_Q)
    if G:
        narrow(spill_1Cw[0], lower_grad_GQ, near_Q, across_Q)
    return loss_I.sum(), count_3
