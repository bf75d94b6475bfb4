"""Counting and finding winners on the GPU; blends are in triton_blend.py.

Counts are integers and integer additions commute, so the atomic additions leave no trace of the
order in which programs came. Tables of many classes do not fit a program; there each pixel is added
by itself.

Axes: K candidates, L pixels of a tile, P pairs (truth, prediction).

Arguments of the kernels:

    prediction_KN, label_N, winner_BHW    contiguous uint8; n pixels
    prob       floating: (B, CLASSES, h, w) with the strides prob_b, prob_c, prob_y, prob_x
    count_KP   (CLASSES^2,) for each candidate: int64, added to
    H W h w    sides of the labels and of the probabilities, below 2^15
    CLASSES    number of classes; labels and predictions of other values do not count
    RESIZED    h and w are not H and W
    L          pixels of a tile; a power of two
    SIDE       of a program's table, a power of two above CLASSES; 0 to add each pixel by itself
"""

import triton
import triton.language as tl


@triton.jit
def count_pairs(
    prediction_KN,
    label_N,
    count_KP,
    n,
    CLASSES: tl.constexpr,
    L: tl.constexpr,
    SIDE: tl.constexpr,
):
    """Count one tile of one candidate. Grid: (ceil(n / L), K)."""
    k = tl.program_id(1).to(tl.int64)
    count_P = count_KP + k * (CLASSES * CLASSES)
    i_L = tl.program_id(0).to(tl.int64) * L + tl.arange(0, L)
    truth_L = tl.load(label_N + i_L, i_L < n, CLASSES)
    guess_L = tl.load(prediction_KN + k * n + i_L, i_L < n, CLASSES)
    if SIDE > 0:
        # What is no class has a row and a column, so that no pixel needs a branch.
        row_L = tl.minimum(truth_L, CLASSES).to(tl.int32)
        column_L = tl.minimum(guess_L, CLASSES).to(tl.int32)
        table_P = tl.histogram(row_L * SIDE + column_L, SIDE * SIDE)
        p = tl.arange(0, SIDE * SIDE)
        row_P, column_P = p // SIDE, p % SIDE
        counted_P = (row_P < CLASSES) & (column_P < CLASSES) & (table_P > 0)
        at_P = count_P + row_P * CLASSES + column_P
        tl.atomic_add(at_P, table_P.to(tl.int64), counted_P, sem="relaxed")
    else:
        counted_L = (truth_L < CLASSES) & (guess_L < CLASSES)
        pair_L = truth_L.to(tl.int32) * CLASSES + guess_L.to(tl.int32)
        tl.atomic_add(count_P + pair_L, counted_L.to(tl.int64), counted_L, sem="relaxed")


@triton.jit
def write_winners(
    prob,
    winner_BHW,
    H,
    W,
    h,
    w,
    prob_b,
    prob_c,
    prob_y,
    prob_x,
    CLASSES: tl.constexpr,
    RESIZED: tl.constexpr,
    L: tl.constexpr,
):
    """Write the winners of one run of L pixels of a row. Grid: (B * H * ceil(W / L),)."""
    b, y, x_L = place(tl.program_id(0), H, W, L)
    plane = prob + b * prob_b
    real: tl.constexpr = tl.float64 if prob.dtype.element_ty == tl.float64 else tl.float32
    taps = taps_of(y, x_L, H, W, h, w, prob_y, prob_x, real, RESIZED)
    largest_L = tl.full([L], -float("inf"), real)
    winner_L = tl.zeros([L], tl.int32)
    for c in tl.range(0, CLASSES, loop_unroll_factor=4):
        value_L = value_at(plane, taps, real, RESIZED)
        larger_L = value_L > largest_L
        largest_L = tl.where(larger_L, value_L, largest_L)
        winner_L = tl.where(larger_L, c, winner_L)
        plane += prob_c
    tl.store(winner_BHW + (b * H + y) * W + x_L, winner_L.to(tl.uint8), x_L < W)


@triton.jit
def place(run, H, W, L: tl.constexpr):
    """Image, row and columns of a run."""
    runs = tl.cdiv(W, L)
    row = run // runs
    return (row // H).to(tl.int64), row % H, run % runs * L + tl.arange(0, L)


@triton.jit
def taps_of(y, x_L, H, W, h, w, prob_y, prob_x, real: tl.constexpr, RESIZED: tl.constexpr):
    """Where in a plane the pixels of a row read, and how they mix what is there."""
    within_L = tl.minimum(x_L, W - 1)
    if RESIZED:
        above, below, down = _between(y, H, h, real)
        left_L, right_L, across_L = _between(within_L, W, w, real)
        above, below = above.to(tl.int64) * prob_y, below.to(tl.int64) * prob_y
        left_L, right_L = left_L * prob_x, right_L * prob_x
        taps = (above + left_L, below + left_L, above + right_L, below + right_L, down, across_L)
    else:
        taps = (y.to(tl.int64) * prob_y + within_L * prob_x,)
    return taps


@triton.jit
def value_at(plane, taps, real: tl.constexpr, RESIZED: tl.constexpr):
    """(L,) values of one class."""
    value_L = tl.load(plane + taps[0]).to(real)
    if RESIZED:
        left_L = _mix(value_L, tl.load(plane + taps[1]).to(real), taps[4])
        right_L = _mix(
            tl.load(plane + taps[2]).to(real), tl.load(plane + taps[3]).to(real), taps[4]
        )
        value_L = _mix(left_L, right_L, taps[5])
    return value_L


@triton.jit
def _between(at, size, source, real: tl.constexpr):
    """The points of `source` on both sides of point `at` of `size`, and the way between them.

    Positions are ratios of integers, so nothing is lost before the last division.
    """
    numerator, denominator = tl.maximum((2 * at + 1) * source - size, 0), 2 * size
    first = numerator // denominator
    rest = (numerator - first * denominator).to(real)
    # In float32 `/` is off by a rounding or two, and equal classes would differ; `div_rn` is not,
    # and spills registers.
    part = (rest.to(tl.float64) * (1.0 / denominator.to(tl.float64))).to(real)
    return first, tl.minimum(first + 1, source - 1), part


@triton.jit
def _mix(first, second, part):
    return (1.0 - part) * first + part * second
