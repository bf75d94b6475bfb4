"""Counting on the GPU: each program counts many pixels by itself, then adds its table once.

Counts are integers and integer additions commute, so the atomic additions leave no trace of the
order in which programs came. Tables of many classes do not fit a program; there each pixel is added
by itself.

Axes: K candidates, M models, L pixels of a tile, C their classes, P pairs (truth, prediction).

Arguments of the kernels:

    prediction_KN, label_N, label_BHW, winner_BHW    contiguous uint8; n pixels
    prob       floating: (B, CLASSES, h, w) with the strides prob_b, prob_c, prob_y, prob_x;
               of a blend, the contiguous (B, CLASSES, h, w) of each model, one after another
    weight_KM  contiguous, of the type that is blended in
    settle     one uint8; 0 if some weight is negative or all of a candidate's are 0
    count_P    (CLASSES^2,), count_KP one for each candidate: int64, added to
    settled_P  likewise: the pixels that count for every candidate
    SIZES      h and w of each model in turn
    H W h w    sides of the labels and of the probabilities, below 2^15
    CLASSES    number of classes; labels and predictions of other values do not count
    RESIZED    h and w are not H and W
    L C        pixels of a tile; a power of two, at least CLASSES
    P          a power of two above CLASSES^2, or 0 to add each pixel by itself
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
    P: tl.constexpr,
):
    """Count a share of the pixels of one candidate.

    Grid: (programs, K); program i takes the tiles i, i + programs, ...
    """
    k = tl.program_id(1).to(tl.int64)
    prediction_KN += k * n
    count_KP += k * CLASSES * CLASSES
    table_P = tl.zeros([P if P > 0 else 1], tl.int32)
    i_L = tl.program_id(0).to(tl.int64) * L + tl.arange(0, L)
    for _ in range(_turns(tl.cdiv(n, L))):
        truth_L = _classes(label_N, i_L, n, CLASSES)
        guess_L = _classes(prediction_KN, i_L, n, CLASSES)
        table_P = _count(table_P, count_KP, truth_L, guess_L, CLASSES, P)
        i_L += tl.num_programs(0).to(tl.int64) * L
    _flush(count_KP, table_P, CLASSES, P)


@triton.jit
def count_winners(
    prob,
    label_BHW,
    count_P,
    B,
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
    C: tl.constexpr,
    P: tl.constexpr,
):
    """Count the winners of a share of the runs of L pixels of a row.

    Grid: (programs,); program i takes the runs i, i + programs, ...
    """
    table_P = tl.zeros([P if P > 0 else 1], tl.int32)
    real: tl.constexpr = tl.float64 if prob.dtype.element_ty == tl.float64 else tl.float32
    for turn in range(_turns(B * H * tl.cdiv(W, L))):
        b, y, x_L = _place(tl.program_id(0) + turn * tl.num_programs(0), H, W, L)
        image = prob + b * prob_b
        prob_LC = _resized(
            image, y, x_L, H, W, h, w, prob_c, prob_y, prob_x, real, CLASSES, RESIZED, C
        )
        truth_L = _classes(label_BHW + (b * H + y) * W, x_L, W, CLASSES)
        table_P = _count(table_P, count_P, truth_L, _winner(prob_LC, CLASSES, C), CLASSES, P)
    _flush(count_P, table_P, CLASSES, P)


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
    C: tl.constexpr,
):
    """Write the winners of one run of L pixels of a row. Grid: (B * H * ceil(W / L),)."""
    b, y, x_L = _place(tl.program_id(0), H, W, L)
    image = prob + b * prob_b
    real: tl.constexpr = tl.float64 if prob.dtype.element_ty == tl.float64 else tl.float32
    prob_LC = _resized(image, y, x_L, H, W, h, w, prob_c, prob_y, prob_x, real, CLASSES, RESIZED, C)
    winner_L = _winner(prob_LC, CLASSES, C).to(tl.uint8)
    tl.store(winner_BHW + (b * H + y) * W + x_L, winner_L, x_L < W)


@triton.jit
def count_blends(
    prob,
    weight_KM,
    settle,
    label_BHW,
    settled_P,
    count_KP,
    B,
    H,
    W,
    K,
    SIZES: tl.constexpr,
    CLASSES: tl.constexpr,
    L: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
):
    """Count K blends of a share of the runs of L pixels of a row.

    Where all models have the same winner, so has every blend with non-negative weights: those
    pixels are counted once. Grid: (programs,); program i takes the runs i, i + programs, ...
    """
    table_P = tl.zeros([P if P > 0 else 1], tl.int32)
    nothing_P = table_P
    may_settle = tl.load(settle) != 0
    real: tl.constexpr = weight_KM.dtype.element_ty
    M: tl.constexpr = len(SIZES) // 2
    for turn in range(_turns(B * H * tl.cdiv(W, L))):
        b, y, x_L = _place(tl.program_id(0) + turn * tl.num_programs(0), H, W, L)
        truth_L = _classes(label_BHW + (b * H + y) * W, x_L, W, CLASSES)
        prob_MLC = ()  # type: tuple[tl.tensor, ...]
        model = prob
        agree_L = truth_L < CLASSES
        for m in tl.static_range(M):
            h, w = SIZES[2 * m], SIZES[2 * m + 1]
            image = model + b * (CLASSES * h * w)
            prob_LC = _resized(image, y, x_L, H, W, h, w, h * w, w, 1, real, CLASSES, True, C)
            prob_MLC += (prob_LC,)
            agree_L &= _winner(prob_LC, CLASSES, C) == _winner(prob_MLC[0], CLASSES, C)
            model += tl.cast(B, tl.int64) * (CLASSES * h * w)
        settled_L = agree_L & may_settle
        winner_L = _winner(prob_MLC[0], CLASSES, C)
        settled_truth_L = tl.where(settled_L, truth_L, CLASSES)
        table_P = _count(table_P, settled_P, settled_truth_L, winner_L, CLASSES, P)
        open_L = (truth_L < CLASSES) & ~settled_L
        if tl.max(open_L.to(tl.int32), 0) > 0:
            open_truth_L = tl.where(open_L, truth_L, CLASSES)
            weight_M, count_P = weight_KM, count_KP
            for _ in range(K):
                blend_LC = tl.load(weight_M) * prob_MLC[0]
                for m in tl.static_range(1, M):
                    blend_LC += tl.load(weight_M + m) * prob_MLC[m]
                winner_L = _winner(blend_LC, CLASSES, C)
                counted_P = _count(nothing_P, count_P, open_truth_L, winner_L, CLASSES, P)
                _flush(count_P, counted_P, CLASSES, P)
                weight_M += M
                count_P += CLASSES * CLASSES
    _flush(settled_P, table_P, CLASSES, P)


@triton.jit
def _turns(tiles):
    """How many of the tiles i, i + programs, ... program i takes."""
    return tl.cdiv(tiles - tl.program_id(0), tl.num_programs(0))


@triton.jit
def _place(run, H, W, L: tl.constexpr):
    """Image, row and columns of a run."""
    runs = tl.cdiv(W, L)
    row = run // runs
    return (row // H).to(tl.int64), row % H, run % runs * L + tl.arange(0, L)


@triton.jit
def _classes(start, i_L, n, CLASSES: tl.constexpr):
    """uint8 classes as int32; beyond the end of the array, no class."""
    return tl.load(start + i_L, i_L < n, CLASSES).to(tl.int32)


@triton.jit
def _resized(
    image,
    y,
    x_L,
    H,
    W,
    h,
    w,
    prob_c,
    prob_y,
    prob_x,
    real: tl.constexpr,
    CLASSES: tl.constexpr,
    RESIZED: tl.constexpr,
    C: tl.constexpr,
):
    """(L, C) values of one image at row y."""
    c_C = tl.arange(0, C)
    is_class_1C = (c_C < CLASSES)[None, :]
    classes_1C = image + (c_C.to(tl.int64) * prob_c)[None, :]
    within_L = tl.minimum(x_L, W - 1)
    if RESIZED:
        above, below, down = _between(y, H, h, real)
        left_L, right_L, across_L = _between(within_L, W, w, real)
        left_L1 = (left_L.to(tl.int64) * prob_x)[:, None]
        right_L1 = (right_L.to(tl.int64) * prob_x)[:, None]
        above_1C = classes_1C + above.to(tl.int64) * prob_y
        below_1C = classes_1C + below.to(tl.int64) * prob_y
        left_LC = _mix(
            tl.load(above_1C + left_L1, is_class_1C, 0.0).to(real),
            tl.load(below_1C + left_L1, is_class_1C, 0.0).to(real),
            down,
        )
        right_LC = _mix(
            tl.load(above_1C + right_L1, is_class_1C, 0.0).to(real),
            tl.load(below_1C + right_L1, is_class_1C, 0.0).to(real),
            down,
        )
        value_LC = _mix(left_LC, right_LC, across_L[:, None])
    else:
        at_LC = classes_1C + y.to(tl.int64) * prob_y + (within_L.to(tl.int64) * prob_x)[:, None]
        value_LC = tl.load(at_LC, is_class_1C, 0.0).to(real)
    return value_LC


@triton.jit
def _winner(value_LC, CLASSES: tl.constexpr, C: tl.constexpr):
    """The class of the largest value of each pixel, the first of equals."""
    is_class_1C = (tl.arange(0, C) < CLASSES)[None, :]
    return tl.argmax(tl.where(is_class_1C, value_LC, -float("inf")), 1)


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


@triton.jit
def _count(table_P, count_P, truth_L, guess_L, CLASSES: tl.constexpr, P: tl.constexpr):
    """The program's table with these pixels; without one, they are added to the counts."""
    counted_L = (truth_L < CLASSES) & (guess_L < CLASSES)
    pair_L = tl.where(counted_L, truth_L * CLASSES + guess_L, CLASSES * CLASSES)
    if P > 0:
        table_P += tl.histogram(pair_L, P)
    else:
        tl.atomic_add(count_P + pair_L, counted_L.to(tl.int64), counted_L, sem="relaxed")
    return table_P


@triton.jit
def _flush(count_P, table_P, CLASSES: tl.constexpr, P: tl.constexpr):
    """Add the program's table to the counts."""
    if P > 0:
        p = tl.arange(0, P)
        mask_P = (p < CLASSES * CLASSES) & (table_P > 0)
        tl.atomic_add(count_P + p, table_P.to(tl.int64), mask_P, sem="relaxed")
