"""The gradient of GroupNorm and ReLU on the GPU; see triton.py, whose runs and tiles these share.

With g the gradient after the ReLU's mask, z the normalised cells, and means over a group:

    bias: sum g    weight: sum g z    input: (g weight - mean(g weight) - z mean(g weight z)) / dev

Doubled, g is gathered first: row k of h has a share in the output rows 2k - 1 to 2k + 2, of

    (h - k) / D    (D - k) / D    (h + k) / D    (k + 1) / D        D = 2h - 1

where they exist, and so with columns.

Axes: as in triton.py.
"""

import triton
import triton.language as tl

from kernels.group_norm_relu.triton import (
    _affine,
    _channels,
    _group,
    _load,
    _normal,
    _store,
    _store_pair,
)


@triton.jit
def run_gradients(
    x,
    grad_y,
    grad_x,
    table,
    moment,
    weight,
    bias,
    h,
    w,
    run,
    CHANNELS: tl.constexpr,
    SHARE: tl.constexpr,
    DOUBLED: tl.constexpr,
    L: tl.constexpr,
    C: tl.constexpr,
):
    """Sum of g, and of g (x - mean), of each channel of one run.

    Grid: as of `run_moments`.

    Args:
        x: (B, h, w, CHANNELS), floating.
        grad_y: (B, h, w, CHANNELS), or (B, 2h, 2w, CHANNELS) if doubled, floating.
        grad_x: as `x`; if doubled, g is written there.
        table: (B, runs, 2, CHANNELS) of the dtype of sums; written.
        moment: (B, groups, 2), as `merge_moments` leaves it.
        weight: (CHANNELS,), floating.
        bias: (CHANNELS,), floating.
        h: rows of cells.
        w: columns of cells.
        run: cells of a run.
        CHANNELS: of a cell.
        SHARE: of them, a group's.
        DOUBLED: the output has twice as many rows and columns.
        L: cells of a tile.
        C: channels of a program.
    """
    c_C, known_C = _channels(CHANNELS, C)
    affine = _affine(moment, weight, bias, c_C, known_C, CHANNELS, SHARE)
    image = tl.program_id(2).to(tl.int64) * h * w * CHANNELS
    start = tl.program_id(0) * run
    stop = tl.minimum(start + run, h * w)
    sum_LC = tl.zeros((L, C), table.dtype.element_ty)
    product_LC = tl.zeros((L, C), table.dtype.element_ty)
    for first in range(start, stop, L):
        cell_L = first + tl.arange(0, L)
        x_LC = _load(x + image + c_C[None, :], cell_L, stop, known_C, CHANNELS)
        if DOUBLED:
            grads_1C = grad_y + 4 * image + c_C[None, :]
            g_LC = _gather(grads_1C, cell_L, stop, known_C, h, w, sum_LC.dtype, CHANNELS)
        else:
            g_LC = _load(grad_y + image + c_C[None, :], cell_L, stop, known_C, CHANNELS)
        g_LC = tl.where(_normal(x_LC, affine) <= 0.0, 0.0, g_LC.to(sum_LC.dtype))
        sum_LC += g_LC
        product_LC += g_LC * (x_LC.to(sum_LC.dtype) - affine[0])
        if DOUBLED:
            _store(grad_x + image + c_C[None, :], g_LC, cell_L, stop, known_C, CHANNELS)
    _store_pair(table, tl.sum(sum_LC, 0), tl.sum(product_LC, 0), c_C, known_C, CHANNELS)


@triton.jit
def merge_gradients(
    table,
    total,
    mean,
    moment,
    weight,
    cells,
    runs,
    CHANNELS: tl.constexpr,
    SHARE: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
):
    """An image's gradients of a group's weights and biases, and the two means of the group.

    Grid: (groups, images).

    Args:
        table: as `run_gradients` leaves it.
        total: (B, 2, CHANNELS): sum of g z, sum of g; written.
        mean: (B, groups, 2): mean of g weight, of g weight z; written.
        moment: (B, groups, 2), as `merge_moments` leaves it.
        weight: (CHANNELS,), floating.
        cells: of an image.
        runs: of an image, at most R.
        CHANNELS: of a cell.
        SHARE: of them, a group's.
        R: a power of two.
        S: a power of two, at least SHARE.
    """
    sum_RS, product_RS, _, _ = _group(table, runs, CHANNELS, SHARE, R, S)
    group = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    sum_S = tl.sum(sum_RS, 0)
    product_S = tl.sum(product_RS, 0) * tl.load(moment + group * 2 + 1)
    s_S = tl.arange(0, S)
    c_S = tl.program_id(0) * SHARE + s_S
    at_S = total + tl.program_id(1) * 2 * CHANNELS + c_S
    tl.store(at_S, product_S, s_S < SHARE)
    tl.store(at_S + CHANNELS, sum_S, s_S < SHARE)
    weight_S = tl.load(weight + c_S, s_S < SHARE, 0.0).to(sum_S.dtype)
    tl.store(mean + group * 2, tl.sum(weight_S * sum_S, 0) / (cells * SHARE))
    tl.store(mean + group * 2 + 1, tl.sum(weight_S * product_S, 0) / (cells * SHARE))


@triton.jit
def input_gradient(
    x,
    given,
    grad_x,
    mean,
    moment,
    weight,
    bias,
    cells,
    run,
    CHANNELS: tl.constexpr,
    SHARE: tl.constexpr,
    MASKED: tl.constexpr,
    L: tl.constexpr,
    C: tl.constexpr,
):
    """The gradient of one run's cells.

    Grid: as of `run_moments`.

    Args:
        x: (B, cells, CHANNELS), floating.
        given: as `x`: g, or that before the ReLU's mask. May be `grad_x`.
        grad_x: as `x`; written.
        mean: (B, groups, 2), as `merge_gradients` leaves it.
        moment: (B, groups, 2), as `merge_moments` leaves it.
        weight: (CHANNELS,), floating.
        bias: (CHANNELS,), floating.
        cells: of an image.
        run: cells of a run.
        CHANNELS: of a cell.
        SHARE: of them, a group's.
        MASKED: `given` is g.
        L: cells of a tile.
        C: channels of a program.
    """
    c_C, known_C = _channels(CHANNELS, C)
    affine = _affine(moment, weight, bias, c_C, known_C, CHANNELS, SHARE)
    group_C = (tl.program_id(2) * (CHANNELS // SHARE) + c_C // SHARE) * 2
    inverse_C = tl.load(moment + group_C + 1, known_C, 0.0)
    level_1C = (tl.load(mean + group_C, known_C, 0.0) * inverse_C)[None, :]
    slope_C = tl.load(mean + group_C + 1, known_C, 0.0)
    slope_1C = (slope_C * inverse_C * inverse_C)[None, :]
    image_1C = tl.program_id(2).to(tl.int64) * cells * CHANNELS + c_C[None, :]
    start = tl.program_id(0) * run
    stop = tl.minimum(start + run, cells)
    for first in range(start, stop, L):
        cell_L = first + tl.arange(0, L)
        x_LC = _load(x + image_1C, cell_L, stop, known_C, CHANNELS)
        g_LC = _load(given + image_1C, cell_L, stop, known_C, CHANNELS).to(level_1C.dtype)
        if not MASKED:
            g_LC = tl.where(_normal(x_LC, affine) <= 0.0, 0.0, g_LC)
        away_LC = x_LC.to(level_1C.dtype) - affine[0]
        grad_LC = g_LC * affine[1] - level_1C - away_LC * slope_1C
        _store(grad_x + image_1C, grad_LC, cell_L, stop, known_C, CHANNELS)


@triton.jit
def _gather(grads_1C, cell_L, stop, known_C, h, w, dtype: tl.constexpr, CHANNELS: tl.constexpr):
    """The gradient of cells from those of the output pixels that they have a share in."""
    row_L, column_L = cell_L // w, cell_L % w
    g_LC = tl.zeros((cell_L.shape[0], known_C.shape[0]), dtype)
    for i in tl.static_range(4):
        line_L, down_L1 = _share(row_L, h, i, dtype)
        line_LC = tl.zeros_like(g_LC)
        for j in tl.static_range(4):
            place_L, across_L1 = _share(column_L, w, j, dtype)
            there_L = (place_L >= 0) & (place_L < 2 * w) & (line_L >= 0) & (line_L < 2 * h)
            # An output of another image, or none, is no place.
            pixel_L = tl.where(there_L & (cell_L < stop), line_L * 2 * w + place_L, 4 * h * w)
            grad_LC = _load(grads_1C, pixel_L, 4 * h * w, known_C, CHANNELS)
            line_LC += across_L1 * grad_LC.to(dtype)
        g_LC += down_L1 * line_LC
    return g_LC


@triton.jit
def _share(k_L, n, i: tl.constexpr, dtype: tl.constexpr):
    """The i-th of four output rows that row k of n has a share in, and the share."""
    if i == 0:
        part_L = n - k_L
    elif i == 1:
        part_L = 2 * n - 1 - k_L
    elif i == 2:
        part_L = n + k_L
    else:
        part_L = k_L + 1
    return 2 * k_L - 1 + i, (part_L.to(dtype) / (2 * n - 1))[:, None]
