"""Boundary-weighted cross-entropy on the CPU: Numba, loss and gradient in one sweep of the pixels.

The loss is a sum over pixels, divided at the very end, so a pixel's share of the gradient is known
as soon as its softmax is. A task walks down a few rows of cells. Two rows of cells lie widened to
the width of the pixels in a buffer of a few hundred KiB, and two rows of gradient beside them: the
pixel rows between them are interpolated from the first pair and added into the second, in tiles
that stay in the first-level cache. Nothing of the labels' full size is ever stored.

Axes: B batch, C class, H W pixels, h w strided cells, Q the pixels of a row in another order (see
`Columns`), I the pixels of a tile, R the pixel rows between two rows of cells.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.boundary_ce.cpu_rows import FAST, TILE, compiled, narrow, sweep_tile, weigh, widen

CHUNK = 8
"""Rows of cells a task: it widens one row that the next one widens too."""

Array = NDArray[Any]

_parallel = numba.njit(cache=True, fastmath=FAST, error_model="numpy", parallel=True)


class Sums(NamedTuple):
    """What the loss is made of; the loss is `numerator / weight`."""

    numerator: float
    weight: float
    labels_fit: bool


class Rows(NamedTuple):
    """Pixel rows first[y] .. first[y + 1] lie between cell rows y and y + 1, `share` of the way."""

    first: NDArray[np.int64]
    share: Array


class Columns(NamedTuple):
    """The pixels of a row, ordered so that interpolating them reads the cells in order.

    Between two neighbouring cells lie at least `stride` pixels. Place k (w - 1) + x holds the k-th
    of those that follow cell x; the last `stride` places hold the pixels that are left.
    """

    pixel: NDArray[np.int64]
    near: NDArray[np.int64]
    share: Array


def sweep(
    logits: Array,
    gradient: Array,
    strides_BChw: tuple[int, int, int, int],
    cells_hw: tuple[int, int],
    label_BHW: NDArray[np.uint8],
    class_weight_C: Array,
    boundary_weight: float,
    *,
    align_corners: bool,
    ignored_edges: bool,
) -> Sums:
    """Sum the loss over the pixels, and its gradient over the pixels of each cell.

    Args:
        logits: 1-D, float32 or float64; logit (b, c, y, x) stands at the dot product of these with
            `strides_BChw`.
        gradient: 1-D, every element is written: of the numerator, with respect to `logits`, in
            the same order; or empty, to leave it out.
        strides_BChw: strides of both in elements, none negative.
        cells_hw: height and width of the logits.
        label_BHW: (B, H, W) C-contiguous, 0 .. C-1 or 255; H and W the same multiple of h and w.
        class_weight_C: (C,) of the logits' dtype.
        boundary_weight: weight of pixels beside another label.
        align_corners: how the logits are upsampled.
        ignored_edges: an ignored neighbour counts as class 0 instead of making no edge.

    Returns:
        The sums, the same to the bit whatever the number of threads; `labels_fit` is false if a
        label is neither a class nor 255, and the sums then mean nothing.
    """
    B, H, W = label_BHW.shape
    h, w = cells_hw
    C = len(class_weight_C)
    weight_2L = np.zeros((2, 256), logits.dtype)
    weight_2L[:, :C] = np.outer([1.0, boundary_weight], class_weight_C)
    chunks = -(-h // CHUNK)
    spill_KCw = np.empty((B * chunks if gradient.size else 0, C, w), logits.dtype)
    numerator_K = np.zeros(B * chunks)
    count_K3 = np.zeros((B * chunks, 3), np.int64)
    _sweep_chunks(
        logits,
        gradient,
        spill_KCw,
        strides_BChw,
        label_BHW,
        weight_2L,
        _rows(h, H // h, align_corners, logits.dtype),
        _columns(w, W // w, align_corners, logits.dtype),
        C,
        ignored_edges,
        numerator_K,
        count_K3,
    )
    counted, edges, misfits = count_K3.sum(axis=0).tolist()
    weight = (counted - edges) + boundary_weight * edges
    return Sums(float(numerator_K.sum()), weight, misfits == 0)


def _positions(cells: int, stride: int, align_corners: bool) -> tuple[Array, Array]:
    """For each pixel of an axis the cell before it and the share of the next, as `interpolate`.

    Positions are ratios of integers, so that the share is exact to half an ulp.
    """
    pixel = np.arange(cells * stride)
    if align_corners:
        numerator, denominator = pixel * (cells - 1), max(cells * stride - 1, 1)
    else:
        numerator, denominator = np.maximum(2 * pixel + 1 - stride, 0), 2 * stride
    near, rest = np.divmod(numerator, denominator)
    return near, rest / denominator


def _rows(cells: int, stride: int, align_corners: bool, dtype: Any) -> Rows:
    near, share = _positions(cells, stride, align_corners)
    return Rows(np.searchsorted(near, np.arange(cells + 1)), share.astype(dtype))


def _columns(cells: int, stride: int, align_corners: bool, dtype: Any) -> Columns:
    near, share = _positions(cells, stride, align_corners)
    first = np.searchsorted(near, np.arange(cells - 1))
    regular = (first + np.arange(stride)[:, None]).ravel()
    pixel = np.concatenate([regular, np.setdiff1d(np.arange(cells * stride), regular)])
    return Columns(pixel, near[pixel], share[pixel].astype(dtype))


@_parallel
def _sweep_chunks(
    logits: Array,
    gradient: Array,
    spill_KCw: Array,
    strides: tuple[int, int, int, int],
    label_BHW: Array,
    weight_2L: Array,
    rows: Rows,
    columns: Columns,
    classes: int,
    ignored_edges: bool,
    numerator_K: Array,
    count_K3: Array,
) -> None:
    h = len(rows.first) - 1
    chunks = -(-h // CHUNK)
    for task in numba.prange(len(numerator_K)):
        b, top = task // chunks, task % chunks * CHUNK
        numerator_K[task] = _sweep_chunk(
            logits[b * strides[0] :],
            gradient[b * strides[0] :],
            spill_KCw[task].reshape(-1) if len(spill_KCw) else logits[:0],
            strides,
            label_BHW[b],
            weight_2L,
            rows,
            columns,
            classes,
            ignored_edges,
            top,
            count_K3[task],
        )
    # The first row of a task also gets what the task above it found between the two.
    for task in numba.prange(len(spill_KCw)):
        below = (task % chunks + 1) * CHUNK
        if below < h:
            start = task // chunks * strides[0] + below * strides[2]
            for x in range(spill_KCw.shape[2]):
                for c in range(classes):
                    gradient[start + c * strides[1] + x * strides[3]] += spill_KCw[task, c, x]


@compiled
def _sweep_chunk(
    logits: Array,
    gradient: Array,
    spill: Array,
    strides: tuple[int, int, int, int],
    label_HW: Array,
    weight_2L: Array,
    rows: Rows,
    columns: Columns,
    classes: int,
    ignored_edges: bool,
    top: int,
    count_3: Array,
) -> float:
    """Sweep the pixels below cell rows top .. top + CHUNK - 1; returns their share of the loss."""
    _, stride_C, stride_h, stride_w = strides
    h, W = len(rows.first) - 1, label_HW.shape[1]
    C, R = classes, np.diff(rows.first).max()
    G = C if len(gradient) else 0
    own_RQ, weight_RQ = np.empty((R, W), np.int32), np.empty((R, W), logits.dtype)
    upper_CQ, lower_CQ = np.empty((C, W), logits.dtype), np.empty((C, W), logits.dtype)
    upper_grad_GQ, lower_grad_GQ = np.zeros((G, W), logits.dtype), np.zeros((G, W), logits.dtype)
    tile_CI, loss_I = np.empty((C, TILE), logits.dtype), np.zeros(TILE)
    near, share = columns.near, columns.share
    widen(lower_CQ, logits[top * stride_h :], stride_C, stride_w, near, share)
    for y in range(top, min(top + CHUNK, h)):
        upper_CQ, lower_CQ = lower_CQ, upper_CQ
        upper_grad_GQ, lower_grad_GQ = lower_grad_GQ, upper_grad_GQ
        lower_grad_GQ[:] = 0
        below = logits[min(y + 1, h - 1) * stride_h :]
        widen(lower_CQ, below, stride_C, stride_w, near, share)
        first, end = rows.first[y], rows.first[y + 1]
        for row in range(first, end):
            weigh(
                own_RQ[row - first],
                weight_RQ[row - first],
                label_HW[max(row - 1, 0)],
                label_HW[row],
                label_HW[min(row + 1, len(label_HW) - 1)],
                columns.pixel,
                weight_2L,
                classes,
                ignored_edges,
                count_3,
            )
        for left in range(0, W, TILE):
            tile = slice(left, min(left + TILE, W))
            for row in range(first, end):
                sweep_tile(
                    loss_I,
                    upper_grad_GQ[:, tile],
                    lower_grad_GQ[:, tile],
                    upper_CQ[:, tile],
                    lower_CQ[:, tile],
                    rows.share[row],
                    own_RQ[row - first, tile],
                    weight_RQ[row - first, tile],
                    tile_CI,
                )
        if G:
            if y == h - 1:
                upper_grad_GQ += lower_grad_GQ  # there is no row below: both were this one
            narrow(gradient[y * stride_h :], stride_C, stride_w, upper_grad_GQ, near, share)
    if G:
        narrow(spill, len(spill) // C, 1, lower_grad_GQ, near, share)
    return float(loss_I.sum())
