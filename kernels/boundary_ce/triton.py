"""Boundary-weighted cross-entropy on the GPU: loss and gradient in one sweep of the pixels.

Three kernels: `boundary_ce_encode` (triton_ends.py) makes of the labels one code a pixel and counts
them; `boundary_ce_sweep` sums the loss and, cell by cell, the gradient; `boundary_ce_finish`, which
is the backward pass, adds what neighbouring programs found for one cell and scales it.

A lane owns the pixels from a column of cells, its near one, to before the next, its far one. It
walks down a strip of rows of cells with the four cells round it in registers, and adds up their
gradients there: in the innermost loop over the pixels of a row, for the near and the far column;
after a row, for the cells above and below. Classes are a tuple of one-dimensional tensors, a number
each in every thread: nothing is exchanged between threads. Where a thread cannot hold all classes,
Q neighbouring threads share a lane, thread q holds classes q, q + Q, q + 2 Q ..., and a softmax
exchanges a maximum and two sums.

With `align_corners=False` the first lane also owns the pixels before its cell, whose share of the
far cell is 0, as is the last lane's; likewise for rows.

A program's strip of gradient is a block (STRIP + 1, C, LANES + 1): its last row and column are its
share in the neighbours' first. So every cell gathers and nothing is added in memory.

Logits are held in units of log 2, since the GPU has instructions for powers and logarithms of 2.
Their largest needs not be subtracted before they are exponents where all are below LIMIT.
"""

import triton
import triton.language as tl

from kernels.boundary_ce.triton_lanes import (
    add_scaled,
    first_pixel,
    share_of,
    sweep_row,
    zeros,
)

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LIMIT = tl.constexpr(100.0)
"""Of |logit| / log 2: 2^9 such powers of 2 add up to less than float32 holds, and none vanishes."""
PADDING = tl.constexpr(-1e30)
"""Logit of the classes that fill up the threads: finite, so that interpolating it is no NaN."""
CHUNK = tl.constexpr(256)
"""Partial sums that the last program reads at a time."""


# Specialising on sizes would compile the kernel anew for each. stride_c is 1 in channels-last
# logits, whose classes then lie at constant distances.
@triton.jit(do_not_specialize=["h", "w", "stride", "tasks", "stride_b", "stride_y", "stride_x"])
def boundary_ce_sweep(  # noqa: PLR0915  one nest of loops, whose state has to stay in registers
    logits,
    slope,
    code,
    weight_T,
    numerator,
    count_2K,
    ticket,
    loss,
    factor,
    h,
    w,
    stride,
    tasks,
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    boundary: tl.float64,
    C: tl.constexpr,
    Q: tl.constexpr,
    LANES: tl.constexpr,
    STRIP: tl.constexpr,
    EDGE: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """Sum the loss of a tile of pixels and the gradient of its cells; the last program, all losses.

    Grid: (ceil(w / LANES), ceil(h / STRIP), B).

    Args:
        logits: (B, C, h, w) with the given strides, floating.
        slope: (B, strips, tiles, STRIP + 1, C, LANES + 1) of float32, or float64 if the logits are:
            written, if GRADIENT, the gradient before `factor`.
        code: (B, H, W) contiguous, what `boundary_ce_encode` wrote.
        weight_T: (2 EDGE,) of slope's dtype: what a pixel weighs, by its code.
        numerator: (programs,) of slope's dtype, written.
        count_2K: (2, tasks) int32: pixels counted, those of them at edges.
        ticket: int32, 0: programs that are done.
        loss: scalar of slope's dtype, written.
        factor: float64, written: 1 / (sum of weights + epsilon).
        h: rows of cells.
        w: columns of cells.
        stride: pixels a cell, in both directions.
        tasks: programs that counted.
        stride_b: stride of the logits from image to image; likewise class, row, column.
        stride_c: see stride_b.
        stride_y: see stride_b.
        stride_x: see stride_b.
        boundary: what a pixel at an edge weighs.
        C: classes.
        Q: threads a lane.
        LANES: lanes a program, each with a column of cells.
        STRIP: rows of cells a program.
        EDGE: what a code has more for being at an edge, a power of two above C.
        ALIGN_CORNERS: how the logits are upsampled.
        GRADIENT: write the gradient.
    """
    real: tl.constexpr = numerator.dtype.element_ty
    R: tl.constexpr = (C + Q - 1) // Q
    b = tl.program_id(2).to(tl.int64)
    top = tl.program_id(1) * STRIP
    thread = tl.arange(0, LANES * Q)
    lane, q = thread // Q, thread % Q
    x = tl.program_id(0) * LANES + lane
    image = logits + b * stride_b
    near = tl.minimum(x, w - 1).to(tl.int64) * stride_x + q * stride_c
    far = tl.minimum(x + 1, w - 1).to(tl.int64) * stride_x + q * stride_c
    width, height = w * stride, h * stride
    start = first_pixel(x, w, stride, ALIGN_CORNERS)
    length = first_pixel(x + 1, w, stride, ALIGN_CORNERS) - start
    longest = tl.max(length)
    start_share, share_step = share_of(start, x, w, stride, real, ALIGN_CORNERS)
    pixels = code + b * height * width + start
    program = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0)
    program += tl.program_id(0)
    block = slope + program.to(tl.int64) * ((STRIP + 1) * C * (LANES + 1)) + q * (LANES + 1) + lane
    zero = tl.zeros([LANES * Q], real)
    total_loss = zero
    upper, upper_apart, upper_size = _load(
        image + top.to(tl.int64) * stride_y, near, far, q, stride_c, real, C, Q
    )
    near_sum, far_sum = zeros(zero, R), zeros(zero, R)
    # Below the last row of cells lie no pixels, and every block is full.
    for y in range(top, top + STRIP):
        below = image + tl.minimum(y + 1, h - 1).to(tl.int64) * stride_y
        lower, lower_apart, lower_size = _load(below, near, far, q, stride_c, real, C, Q)
        far_off = tl.maximum(upper_size, lower_size) > LIMIT
        next_near_sum, next_far_sum = zeros(zero, R), zeros(zero, R)
        first = first_pixel(y, h, stride, ALIGN_CORNERS)
        down, down_step = share_of(first, y, h, stride, real, ALIGN_CORNERS)
        for row in range(first, first_pixel(y + 1, h, stride, ALIGN_CORNERS)):
            share = down if ALIGN_CORNERS else tl.maximum(down, 0.0)
            down += down_step
            at_near, apart = (), ()
            for r in tl.static_range(R):
                at_near += (upper[r] + share * (lower[r] - upper[r]),)
                apart += (upper_apart[r] + share * (lower_apart[r] - upper_apart[r]),)
            pixel = pixels + row * width
            if far_off:
                row_loss, row_near, row_far = sweep_row(
                    pixel,
                    weight_T,
                    at_near,
                    apart,
                    start_share,
                    share_step,
                    length,
                    longest,
                    q,
                    zero,
                    R,
                    Q,
                    EDGE,
                    ALIGN_CORNERS,
                    GRADIENT,
                    True,
                )
            else:
                row_loss, row_near, row_far = sweep_row(
                    pixel,
                    weight_T,
                    at_near,
                    apart,
                    start_share,
                    share_step,
                    length,
                    longest,
                    q,
                    zero,
                    R,
                    Q,
                    EDGE,
                    ALIGN_CORNERS,
                    GRADIENT,
                    False,
                )
            total_loss += row_loss
            if GRADIENT:
                near_sum = add_scaled(near_sum, 1 - share, row_near, R)
                far_sum = add_scaled(far_sum, 1 - share, row_far, R)
                next_near_sum = add_scaled(next_near_sum, share, row_near, R)
                next_far_sum = add_scaled(next_far_sum, share, row_far, R)
        if GRADIENT:
            _store(block + (y - top) * (C * (LANES + 1)), near_sum, far_sum, thread, C, Q, LANES)
        upper, upper_apart, upper_size = lower, lower_apart, lower_size
        near_sum, far_sum = next_near_sum, next_far_sum
    if GRADIENT:
        _store(block + STRIP * (C * (LANES + 1)), near_sum, far_sum, thread, C, Q, LANES)
    tl.store(numerator + program, tl.sum(tl.where(q == 0, total_loss, 0.0)) * LN_2)
    # Whoever comes last sees what all others have stored, and adds it up in the same order.
    programs = tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2)
    if tl.atomic_add(ticket, 1, sem="acq_rel") == programs - 1:
        counted, edges = _sum(count_2K, tasks), _sum(count_2K + tasks, tasks)
        scale = 1 / (counted + (boundary - 1) * edges + 1e-6)
        tl.store(factor, scale)
        tl.store(loss, (_sum(numerator, programs) * scale).to(real))


@triton.jit
def _load(row, near, far, q, stride_c, real: tl.constexpr, C: tl.constexpr, Q: tl.constexpr):
    """Of a row of cells, in units of log 2: each near logit, far - near, the largest |logit|."""
    at_near, apart = (), ()
    size = tl.zeros(near.shape, real)
    for r in tl.static_range((C + Q - 1) // Q):
        step = r * Q * stride_c
        if r * Q + Q <= C:
            a, b = tl.load(row + near + step).to(real), tl.load(row + far + step).to(real)
            size = tl.maximum(size, tl.maximum(tl.abs(a), tl.abs(b)))
        else:
            some = r * Q + q < C
            a = tl.load(row + near + step, some, 0.0).to(real)
            b = tl.load(row + far + step, some, 0.0).to(real)
            size = tl.maximum(size, tl.maximum(tl.abs(a), tl.abs(b)))
            # PADDING only now: float16 cannot hold it.
            a, b = tl.where(some, a, PADDING), tl.where(some, b, PADDING)
        a *= LOG2_E
        at_near += (a,)
        apart += (b * LOG2_E - a,)
    return at_near, apart, tl.max(size) * LOG2_E


@triton.jit
def _store(block, near_sum, far_sum, thread, C: tl.constexpr, Q: tl.constexpr, LANES: tl.constexpr):
    """A cell's gradient: that of the lane whose near cell it is, and of the lane before."""
    lane, q = thread // Q, thread % Q
    before = tl.maximum(thread - Q, 0)
    for r in tl.static_range((C + Q - 1) // Q):
        some = r * Q + q < C
        here = block + r * Q * (LANES + 1)
        from_before = tl.where(lane > 0, tl.gather(far_sum[r], before, 0), 0.0)
        tl.store(here, near_sum[r] + from_before, some)
        tl.store(here + 1, far_sum[r], some & (lane == LANES - 1))


@triton.jit
def _sum(partial, count):
    """Of all programs' partial sums, past the cache of this multiprocessor, which may be stale."""
    at = tl.arange(0, CHUNK)
    total = tl.zeros([CHUNK], tl.float64)
    for first in range(0, count, CHUNK):
        some = first + at < count
        total += tl.load(partial + first + at, some, 0, cache_modifier=".cg").to(tl.float64)
    return tl.sum(total)
