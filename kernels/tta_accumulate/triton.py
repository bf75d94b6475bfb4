"""Accumulation of views on the GPU: every pixel of the base gathers from all views in one launch.

A base pixel lies between four pixels of each view, its corners there, and each of those between
four cells. What decides where is made on the host (launch.py): a table of rows, one of columns, and
the list of all corners of all views, which these kernels walk. The sum of a pixel stays in
registers meanwhile, so the total is read once and written once.

Axes: L pixels of a run of one base row, C their classes, G temperatures of a program.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)

# The interpreter has no machine instructions.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


# Views and frames of other sizes compile nothing.
@triton.jit(do_not_specialize=["corners", "H", "W"])
def add_views(
    total,
    logits,
    corner_K4,
    row_R4H,
    column_S4W,
    inverse_T,
    corners,
    H,
    W,
    total_b,
    total_t,
    total_c,
    total_y,
    total_x,
    CLASSES: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
):
    """Add all views to L pixels of a base row at G temperatures: a thread a pixel.

    A pixel's classes are a tuple of registers of one thread: nothing is exchanged between threads.
    Grid: (ceil(W / L) * H, B, T / G).

    Args:
        total: (B, T, C, H, W) float32 with the strides `total_*`; added to.
        logits: the views' (B, C, h, w), floating, contiguous, one behind another.
        corner_K4: (K, 4) int64, of each corner of a view: where the view begins in `logits`, h w,
            the corner's row of `row_R4H` and of `column_S4W`.
        row_R4H: (R, 4, H) int32, of each base row: the rows of cells above and below the corner,
            as offsets in a class, and as bits of float32 the way between them and the weight.
        column_S4W: (S, 4, W) int32, of each base column: likewise, left and right.
        inverse_T: (T,) float32, 1 / temperature.
        corners: K.
        H: rows of the base.
        W: columns of the base.
        total_b: stride in elements.
        total_t: stride.
        total_c: stride.
        total_y: stride.
        total_x: stride.
        CLASSES: number of classes.
        G: temperatures a program.
        L: pixels a program, and its threads.
    """
    runs = tl.cdiv(W, L)
    y = tl.program_id(0) // runs
    x_L = tl.program_id(0) % runs * L + tl.arange(0, L)
    read_L = tl.minimum(x_L, W - 1)
    b = tl.program_id(1).to(tl.int64)
    first = tl.program_id(2) * G

    inverse_G = ()  # type: tuple[tl.tensor, ...]
    sum_GC = ()  # type: tuple[tl.tensor, ...]
    for t in tl.static_range(G):
        inverse_G += (tl.load(inverse_T + first + t),)
        for _ in tl.static_range(CLASSES):
            sum_GC += (tl.zeros([L], tl.float32),)
    for k in range(corners):
        start, plane, row, column = _corner(corner_K4 + 4 * k)
        above, below, down, weight = _taps(row_R4H + row * 4 * H + y, H)
        left_L, right_L, across_L, weight_L = _taps(column_S4W + column * 4 * W + read_L, W)
        weight_L *= weight
        # Logarithms to base 2 from here on.
        lower = down * LOG2_E
        upper = LOG2_E - lower
        a_L = (1.0 - across_L) * upper
        b_L = across_L * upper
        c_L = (1.0 - across_L) * lower
        d_L = across_L * lower
        cells = logits + start + b * CLASSES * plane
        u_C = ()  # type: tuple[tl.tensor, ...]
        for _ in tl.static_range(CLASSES):
            u_L = a_L * tl.load(cells + above + left_L).to(tl.float32)
            u_L += b_L * tl.load(cells + above + right_L).to(tl.float32)
            u_L += c_L * tl.load(cells + below + left_L).to(tl.float32)
            u_L += d_L * tl.load(cells + below + right_L).to(tl.float32)
            u_C += (u_L,)
            cells += plane
        largest_L = u_C[0]
        for c in tl.static_range(1, CLASSES):
            largest_L = tl.maximum(largest_L, u_C[c])
        less_C = ()  # type: tuple[tl.tensor, ...]
        for c in tl.static_range(CLASSES):
            less_C += (u_C[c] - largest_L,)
        new_GC = ()  # type: tuple[tl.tensor, ...]
        for t in tl.static_range(G):
            e_C = ()  # type: tuple[tl.tensor, ...]
            norm_L = tl.zeros([L], tl.float32)
            for c in tl.static_range(CLASSES):
                e_L = _exp2(less_C[c] * inverse_G[t])
                norm_L += e_L
                e_C += (e_L,)
            share_L = weight_L * _reciprocal(norm_L)
            for c in tl.static_range(CLASSES):
                new_GC += (sum_GC[t * CLASSES + c] + share_L * e_C[c],)
        sum_GC = new_GC

    here_L = total + b * total_b + first.to(tl.int64) * total_t + y.to(tl.int64) * total_y
    here_L += x_L.to(tl.int64) * total_x
    mask_L = x_L < W
    for t in tl.static_range(G):
        at_L = here_L
        for c in tl.static_range(CLASSES):
            tl.store(at_L, tl.load(at_L, mask_L, 0.0) + sum_GC[t * CLASSES + c], mask_L)
            at_L += total_c
        here_L += total_t


@triton.jit(do_not_specialize=["corners", "H", "W"])
def add_views_of_many_classes(
    total,
    logits,
    corner_K4,
    row_R4H,
    column_S4W,
    inverse_T,
    corners,
    H,
    W,
    total_b,
    total_t,
    total_c,
    total_y,
    total_x,
    CLASSES: tl.constexpr,
    C: tl.constexpr,
    L: tl.constexpr,
):
    """As `add_views`, for more classes than the registers of a thread hold; one temperature.

    The classes of a pixel, padded to the power of two C, are spread over threads, which exchange
    largest and sum once a corner. Grid: (ceil(W / L) * H, B, T).
    """
    runs = tl.cdiv(W, L)
    y = tl.program_id(0) // runs
    x_L = tl.program_id(0) % runs * L + tl.arange(0, L)
    read_L = tl.minimum(x_L, W - 1)
    b = tl.program_id(1).to(tl.int64)
    t = tl.program_id(2)
    c_1C = tl.arange(0, C)[None, :]
    is_class_1C = c_1C < CLASSES

    inverse = tl.load(inverse_T + t) * LOG2_E
    sum_LC = tl.zeros([L, C], tl.float32)
    for k in range(corners):
        start, plane, row, column = _corner(corner_K4 + 4 * k)
        above, below, down, weight = _taps(row_R4H + row * 4 * H + y, H)
        left_L, right_L, across_L, weight_L = _taps(column_S4W + column * 4 * W + read_L, W)
        cells_1C = logits + start + (b * CLASSES + c_1C) * plane
        across_L1 = across_L[:, None]
        u_LC = _between(cells_1C + above, left_L, right_L, across_L1, is_class_1C)
        lower_LC = _between(cells_1C + below, left_L, right_L, across_L1, is_class_1C)
        u_LC = tl.where(is_class_1C, (1.0 - down) * u_LC + down * lower_LC, -float("inf"))
        e_LC = _exp2((u_LC - tl.max(u_LC, 1)[:, None]) * inverse)
        share_L = weight_L * weight * _reciprocal(tl.sum(e_LC, 1))
        sum_LC += share_L[:, None] * e_LC

    here_LC = total + b * total_b + t.to(tl.int64) * total_t + y.to(tl.int64) * total_y
    here_LC += (x_L.to(tl.int64) * total_x)[:, None] + c_1C.to(tl.int64) * total_c
    mask_LC = (x_L < W)[:, None] & is_class_1C
    tl.store(here_LC, tl.load(here_LC, mask_LC, 0.0) + sum_LC, mask_LC)


@triton.jit
def _corner(corner_4):
    """Where a corner's view begins, how far its classes are apart, its row and its column."""
    return tl.load(corner_4), tl.load(corner_4 + 1), tl.load(corner_4 + 2), tl.load(corner_4 + 3)


@triton.jit
def _taps(place, stride):
    """Both offsets, the way between them and the weight of one place in a table of taps."""
    first = tl.load(place)
    second = tl.load(place + stride)
    part = tl.load(place + 2 * stride).to(tl.float32, bitcast=True)
    return first, second, part, tl.load(place + 3 * stride).to(tl.float32, bitcast=True)


@triton.jit
def _between(row_1C, left_L, right_L, across_L1, mask_1C):
    """Logits between the columns of one row of cells; 0 beyond the last class."""
    left_LC = tl.load(row_1C + left_L[:, None], mask_1C, 0.0).to(tl.float32)
    right_LC = tl.load(row_1C + right_L[:, None], mask_1C, 0.0).to(tl.float32)
    return (1.0 - across_L1) * left_LC + across_L1 * right_LC


@triton.jit
def _exp2(x):
    """2^x to two units in the last place; 0 where that is below the normal numbers.

    `tl.exp2` keeps denormal numbers, which takes four instructions for one.
    """
    if INTERPRETED:
        return tl.exp2(x)
    return tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def _reciprocal(x):
    """1 / x to one unit in the last place, of a number from 1 to that of the classes."""
    if INTERPRETED:
        return 1.0 / x
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )
