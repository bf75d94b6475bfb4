"""What a lane of `triton.py`'s sweep computes: where its pixels lie, and a row of them."""

import triton
import triton.language as tl

FAST = tl.constexpr(not triton.knobs.runtime.interpret)
"""The interpreter knows no PTX."""


@triton.jit
def first_pixel(cell, cells, stride, ALIGN_CORNERS: tl.constexpr):
    """The first pixel of a cell: that at or after it, or for the first cell the first of all."""
    pixels = cells * stride
    if ALIGN_CORNERS:
        first = (cell * (pixels - 1) + tl.maximum(cells - 2, 0)) // tl.maximum(cells - 1, 1)
    else:
        first = tl.where(cell > 0, cell * stride + stride // 2, 0)
    return tl.where(cell < cells, tl.minimum(first, pixels), pixels)


@triton.jit
def share_of(pixel, cell, cells, stride, real: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """Share of cell + 1 in a pixel, and how much more it has in the next; the last cell has none.

    Before the middle of the first cell it is negative, and 0 is meant.
    """
    if ALIGN_CORNERS:
        denominator = tl.maximum(cells * stride - 1, 1)
        numerator, step = pixel * (cells - 1) - cell * denominator, cells - 1
    else:
        denominator = 2 * stride
        numerator, step = 2 * pixel + 1 - stride - cell * denominator, 2
    unit = 1.0 / denominator.to(real)
    inner = cell < cells - 1
    share = tl.where(inner, numerator.to(real) * unit, 0.0)
    return share.to(real), tl.where(inner, step * unit, 0.0).to(real)


@triton.jit
def zeros(zero, R: tl.constexpr):
    """A number for each class of a thread."""
    filled = ()
    for _ in tl.static_range(R):
        filled += (zero,)
    return filled


@triton.jit
def add_scaled(sums, share, more, R: tl.constexpr):
    """Class by class, sums + share * more."""
    added = ()
    for r in tl.static_range(R):
        added += (sums[r] + share * more[r],)
    return added


@triton.jit
def sweep_row(
    pixel,
    weight_T,
    at_near,
    apart,
    across,
    step,
    length,
    longest,
    q,
    zero,
    R: tl.constexpr,
    Q: tl.constexpr,
    EDGE: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    GRADIENT: tl.constexpr,
    FAR_OFF: tl.constexpr,
):
    """The pixels of a row between two columns of cells: loss, gradient of the near and far cell.

    Args:
        pixel: the first one's code.
        weight_T: what a pixel weighs, by its code.
        at_near: logits at the near column.
        apart: logits at the far column less those.
        across: share of the far column in the first pixel.
        step: how much more it has in the next.
        length: pixels of each lane.
        longest: the largest of them.
        q: which of a lane's threads this is.
        zero: 0 for each thread.
        R: classes a thread.
        Q: threads a lane.
        EDGE: what a code has more for being at an edge.
        ALIGN_CORNERS: how the logits are upsampled; if not, shares below 0 mean 0.
        GRADIENT: whether the gradient is wanted.
        FAR_OFF: whether a logit may be too large for a power of 2.
    """
    loss = zero
    near_sum, far_sum = zeros(zero, R), zeros(zero, R)
    own = tl.load(pixel, length > 0, EDGE - 1).to(tl.int32)
    for k in range(longest):
        # Read ahead: a load takes longer than the exponentials of a pixel.
        next_own = tl.load(pixel + k + 1, k + 1 < length, EDGE - 1).to(tl.int32)
        weight = tl.load(weight_T + own)
        to_far = across if ALIGN_CORNERS else tl.maximum(across, 0.0)
        u = ()
        for r in tl.static_range(R):
            u += (at_near[r] + to_far * apart[r],)
        if FAR_OFF:
            u = _below_largest(u, R, Q)
        own = (own & (EDGE - 1)) - q
        total, own_u, e = zero, zero, ()
        for r in tl.static_range(R):
            power = _exp2(u[r])
            e += (power,)
            total += power
            own_u = tl.where(own == r * Q, u[r], own_u)
        total, own_u = _over_lane(total, Q), _over_lane(own_u, Q)
        loss += weight * (_log2(total) - own_u)
        if GRADIENT:
            unit = weight * _inverse(total)
            unit_far = to_far * unit
            unit_near = unit - unit_far
            more_near, more_far = (), ()
            for r in tl.static_range(R):
                part = tl.where(own == r * Q, e[r] - total, e[r])
                more_near += (near_sum[r] + unit_near * part,)
                more_far += (far_sum[r] + unit_far * part,)
            near_sum, far_sum = more_near, more_far
        across += step
        own = next_own
    return loss, near_sum, far_sum


@triton.jit
def _below_largest(u, R: tl.constexpr, Q: tl.constexpr):
    """Less the largest of the lane's: no power of 2 overflows, nor do all vanish."""
    largest = u[0]
    for r in tl.static_range(1, R):
        largest = tl.maximum(largest, u[r])
    if Q > 1:
        by_lane = tl.reshape(largest, [largest.shape[0] // Q, Q])
        largest = _spread(tl.max(by_lane, 1), Q)
    less = ()
    for r in tl.static_range(R):
        less += (u[r] - largest,)
    return less


@triton.jit
def _over_lane(x, Q: tl.constexpr):
    """The sum over a lane's threads, in each of them."""
    if Q > 1:
        x = _spread(tl.sum(tl.reshape(x, [x.shape[0] // Q, Q]), 1), Q)
    return x


@triton.jit
def _spread(x, Q: tl.constexpr):
    """To each thread of a lane."""
    lanes: tl.constexpr = x.shape[0]
    return tl.reshape(tl.broadcast_to(tl.expand_dims(x, 1), [lanes, Q]), [lanes * Q])


@triton.jit
def _exp2(x):
    """2^x; below 2^-126 it may be 0, or `tl.exp2` would do, at three instructions more."""
    if FAST and x.dtype == tl.float32:
        y = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        y = tl.exp2(x)
    return y


@triton.jit
def _log2(x):
    """Of x > 2^-126."""
    if FAST and x.dtype == tl.float32:
        y = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        y = tl.log2(x)
    return y


@triton.jit
def _inverse(x):
    """1 / x, for x between 2^-126 and 2^126: by one instruction, where a division takes eight."""
    if FAST and x.dtype == tl.float32:
        y = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        y = 1 / x
    return y
