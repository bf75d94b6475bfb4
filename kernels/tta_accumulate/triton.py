"""Accumulation of one view on the GPU: every pixel of the base gathers, nothing is added twice.

A program owns a run of pixels of one base row. A base pixel lies between four pixels of the view,
each of those between four cells, so the program mixes the logits of four view pixels for each pixel
it owns. They stay in registers while the temperatures follow one another.

Axes: L the pixels of the run, C their classes.
"""

import triton
import triton.language as tl


# A flag is not compiled in: it would make two kernels of one.
@triton.jit(do_not_specialize=["flipped"])
def add_view(
    total,
    logits,
    H,
    W,
    view_h,
    view_w,
    h,
    w,
    total_b,
    total_t,
    total_c,
    total_y,
    total_x,
    logits_b,
    logits_c,
    logits_y,
    logits_x,
    flipped,
    INVERSE_T: tl.constexpr,
    CLASSES: tl.constexpr,
    RESIZED: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    L: tl.constexpr,
    C: tl.constexpr,
):
    """Add the view to L pixels of a base row, all temperatures and classes.

    Grid: (ceil(W / L) * H, B).

    Args:
        total: (B, T, C, H, W) float32 with the strides `total_*`; added to.
        logits: (B, C, h, w) floating with the strides `logits_*`.
        H: rows of the base.
        W: columns of the base.
        view_h: rows of the view, below 2^15 as all sides.
        view_w: columns of the view.
        h: rows of cells.
        w: columns of cells.
        total_b: stride in elements.
        total_t: stride.
        total_c: stride.
        total_y: stride.
        total_x: stride.
        logits_b: stride in elements.
        logits_c: stride.
        logits_y: stride.
        logits_x: stride.
        flipped: 1 where the view was mirrored left to right, else 0.
        INVERSE_T: 1 / temperature for each, a tuple.
        CLASSES: number of classes.
        RESIZED: the view is not of the base's size.
        ALIGN_CORNERS: how the logits are upsampled to the view.
        L: pixels a program.
        C: a power of two, at least CLASSES.
    """
    runs = tl.cdiv(W, L)
    b = tl.program_id(1).to(tl.int64)
    y = tl.program_id(0) // runs
    x_L = tl.program_id(0) % runs * L + tl.arange(0, L)
    c_C = tl.arange(0, C)
    is_class_1C = (c_C < CLASSES)[None, :]
    cells_1C = logits + (b * logits_b + c_C.to(tl.int64) * logits_c)[None, :]
    here_LC = total + (b * total_b + y.to(tl.int64) * total_y + c_C.to(tl.int64) * total_c)[None, :]
    here_LC += (x_L.to(tl.int64) * total_x)[:, None]
    mask_LC = (x_L < W)[:, None] & is_class_1C

    top, bottom, down = _between(y, H, view_h, False)
    left_L, right_L, across_L = _between(tl.minimum(x_L, W - 1), W, view_w, False)
    if flipped:
        left_L, right_L = view_w - 1 - left_L, view_w - 1 - right_L
    upper = _rows(cells_1C, top, view_h, h, logits_y, ALIGN_CORNERS)
    near = _columns(left_L, view_w, w, logits_x, ALIGN_CORNERS)
    u00_LC = _logits(upper, near, is_class_1C)
    u01_LC, u10_LC, u11_LC = u00_LC, u00_LC, u00_LC
    if RESIZED:
        lower = _rows(cells_1C, bottom, view_h, h, logits_y, ALIGN_CORNERS)
        far = _columns(right_L, view_w, w, logits_x, ALIGN_CORNERS)
        u01_LC = _logits(upper, far, is_class_1C)
        u10_LC = _logits(lower, near, is_class_1C)
        u11_LC = _logits(lower, far, is_class_1C)
    for t in tl.static_range(len(INVERSE_T)):
        prob_LC = _softmax(u00_LC, INVERSE_T[t])
        if RESIZED:
            upper_LC = _mix(prob_LC, _softmax(u01_LC, INVERSE_T[t]), across_L[:, None])
            lower_LC = _mix(
                _softmax(u10_LC, INVERSE_T[t]), _softmax(u11_LC, INVERSE_T[t]), across_L[:, None]
            )
            prob_LC = _mix(upper_LC, lower_LC, down)
        tl.store(here_LC, tl.load(here_LC, mask_LC, 0.0) + prob_LC, mask_LC)
        here_LC += total_t


@triton.jit
def _between(at, size, source, ALIGN_CORNERS: tl.constexpr):
    """The points of `source` on both sides of point `at` of `size`, and the way between them.

    Positions are ratios of integers, so nothing is lost before the last division.
    """
    if ALIGN_CORNERS:
        numerator, denominator = at * (source - 1), tl.maximum(size - 1, 1)
    else:
        numerator, denominator = tl.maximum((2 * at + 1) * source - size, 0), 2 * size
    first = numerator // denominator
    rest = (numerator - first * denominator).to(tl.float32)
    # In float32 `/` is off by a rounding or two.
    part = (rest.to(tl.float64) * (1.0 / denominator.to(tl.float64))).to(tl.float32)
    return first, tl.minimum(first + 1, source - 1), part


@triton.jit
def _rows(cells_1C, row, view_h, h, logits_y, ALIGN_CORNERS: tl.constexpr):
    """The rows of cells on both sides of a row of the view, and the way between them."""
    above, below, part = _between(row, view_h, h, ALIGN_CORNERS)
    return cells_1C + above.to(tl.int64) * logits_y, cells_1C + below.to(tl.int64) * logits_y, part


@triton.jit
def _columns(column_L, view_w, w, logits_x, ALIGN_CORNERS: tl.constexpr):
    """Offsets of the cells on both sides of columns of the view, and the way between them."""
    left_L, right_L, part_L = _between(column_L, view_w, w, ALIGN_CORNERS)
    left_L1 = (left_L.to(tl.int64) * logits_x)[:, None]
    right_L1 = (right_L.to(tl.int64) * logits_x)[:, None]
    return left_L1, right_L1, part_L[:, None]


@triton.jit
def _logits(rows, columns, is_class_1C):
    """Logits of view pixels, less the largest of each pixel; -inf beyond the last class."""
    above_1C, below_1C, down = rows
    left_L1, right_L1, across_L1 = columns
    upper_LC = _mix(
        tl.load(above_1C + left_L1, is_class_1C, 0.0).to(tl.float32),
        tl.load(above_1C + right_L1, is_class_1C, 0.0).to(tl.float32),
        across_L1,
    )
    lower_LC = _mix(
        tl.load(below_1C + left_L1, is_class_1C, 0.0).to(tl.float32),
        tl.load(below_1C + right_L1, is_class_1C, 0.0).to(tl.float32),
        across_L1,
    )
    mixed_LC = tl.where(is_class_1C, _mix(upper_LC, lower_LC, down), -float("inf"))
    return mixed_LC - tl.max(mixed_LC, 1)[:, None]


@triton.jit
def _softmax(u_LC, inverse: tl.constexpr):
    e_LC = tl.exp(u_LC * inverse)
    return e_LC / tl.sum(e_LC, 1)[:, None]


@triton.jit
def _mix(first, second, part):
    return (1.0 - part) * first + part * second
