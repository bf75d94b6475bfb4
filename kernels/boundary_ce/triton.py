"""Boundary-weighted cross-entropy on the GPU: loss and gradient in one sweep of the pixels.

A lane owns the pixels between two neighbouring columns of cells, i and i + 1, and a program walks
down a strip of rows of cells with a row of such lanes. The four cells round a lane stay in
registers while it visits its pixels, about stride x stride of them: each is interpolated, weighed,
and its gradient added to the four cells' sums, also in registers. A cell's gradient is then that of
the lane to its right and of the lane to its left. So every cell gathers, nothing is added in memory
and nothing of the labels' full size is stored. A strip visits the pixels above its first row too,
and a tile those left of its first column, without counting their loss.

With `align_corners=False` the pixels beyond the outermost cells belong to lanes -1 and w - 1, whose
share of the cell inside is 1; rows -1 and h - 1 likewise.

Axes: R Q the classes c = r + 4 q, L lanes. Triton lays [R, L, Q] out with R in a thread's registers
and Q over neighbouring threads, so that a softmax needs two shuffles for 16 classes.
"""

import triton
import triton.language as tl

IGNORE_INDEX = tl.constexpr(255)
PADDING = tl.constexpr(-1e30)
"""Logit of the classes that fill up the tile: finite, so that interpolating it is no NaN."""


# Specialising on sizes would compile the kernel anew for each; stride_c = 1 would put the classes
# of a lane on sixteen threads, unless PACKED says that four of them can be read at once.
@triton.jit(do_not_specialize=["h", "w", "stride", "stride_b", "stride_c", "stride_y", "stride_x"])
def boundary_ce_sweep(  # noqa: PLR0915  one nest of loops, whose state has to stay in registers
    logits,
    gradient,
    label,
    weight_2C,
    numerator,
    count_2,
    h,
    w,
    stride,
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    C: tl.constexpr,
    R: tl.constexpr,
    Q: tl.constexpr,
    LANES: tl.constexpr,
    STRIP: tl.constexpr,
    PACKED: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    IGNORED_EDGES: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """Sum the loss of a tile of pixels, and write the gradient of its cells.

    Grid: (ceil(w / (LANES - 1)), ceil(h / STRIP), B).

    Args:
        logits: (B, C, h, w) with the given strides, floating.
        gradient: same strides, float32, or float64 if the logits are; written, if GRADIENT.
        label: (B, H, W) contiguous integers with H = stride h, W = stride w; 255 = ignore.
        weight_2C: (2, C) of gradient's dtype: class weight; second row: times boundary weight.
        numerator: (programs,) of gradient's dtype, written: the loss.
        count_2: (programs, 2) int32, written: pixels counted, those of them at edges.
        h: rows of cells.
        w: columns of cells.
        stride: pixels a cell, in both directions.
        stride_b: stride of the logits from image to image; likewise class, row, column.
        stride_c: see stride_b.
        stride_y: see stride_b.
        stride_x: see stride_b.
        C: classes.
        R: classes a thread holds.
        Q: threads of a lane; R Q >= C.
        LANES: lanes a program, one more than the columns of cells that it owns.
        STRIP: rows of cells a program owns.
        PACKED: the strides are those of a channels-last tensor with C a multiple of R.
        ALIGN_CORNERS: how the logits are upsampled.
        IGNORED_EDGES: an ignored neighbour counts as class 0.
        GRADIENT: write the gradient.
    """
    real: tl.constexpr = numerator.dtype.element_ty
    b = tl.program_id(2).to(tl.int64)
    left, top = tl.program_id(0) * (LANES - 1), tl.program_id(1) * STRIP
    lane = left - 1 + tl.arange(0, LANES)
    c = tl.arange(0, R)[:, None, None] + R * tl.arange(0, Q)[None, None, :]
    near = _offset(tl.maximum(lane, 0), c, b, h, w, stride_b, stride_c, stride_x, C, PACKED)
    far = _offset(tl.minimum(lane + 1, w - 1), c, b, h, w, stride_b, stride_c, stride_x, C, PACKED)
    row_step = (w * C if PACKED else stride_y).to(tl.int64)
    cells = (c < C) & _lanes(lane < w)
    height, width = h * stride, (w * stride).to(tl.int64)
    label += b * height * width
    start = _first_pixel(lane, w, stride, ALIGN_CORNERS)
    length = _first_pixel(lane + 1, w, stride, ALIGN_CORNERS) - start
    loss = tl.zeros([LANES], real)
    counted, edges = tl.zeros([LANES], tl.int32), tl.zeros([LANES], tl.int32)
    zero = tl.zeros([R, LANES, Q], real)
    # Without a gradient only the row of pixels above the first row of cells has no other program.
    first_row = top - 1 if GRADIENT else tl.where(top > 0, top, -1)
    above = logits + tl.maximum(first_row, 0) * row_step
    upper_near, upper_far = _load(above, near, far, cells, real)
    near_sum, far_sum = zero, zero
    for y in range(first_row, tl.minimum(top + STRIP, h)):
        below = logits + tl.minimum(y + 1, h - 1) * row_step
        lower_near, lower_far = _load(below, near, far, cells, real)
        next_near_sum, next_far_sum = zero, zero
        counts = ((lane >= left) | (lane < 0)) & ((y >= top) | (y < 0))
        first = _first_pixel(y, h, stride, ALIGN_CORNERS)
        for row in range(first, _first_pixel(y + 1, h, stride, ALIGN_CORNERS)):
            share = _share(row, y, h, stride, real, ALIGN_CORNERS)
            at_near = upper_near + share * (lower_near - upper_near)
            at_far = upper_far + share * (lower_far - upper_far)
            least, most, _ = _column(label, row, start - 1, height, width, IGNORED_EDGES)
            least_1, most_1, own = _column(label, row, start, height, width, IGNORED_EDGES)
            for k in range(tl.max(length)):
                x = start + k
                least_2, most_2, own_2 = _column(label, row, x + 1, height, width, IGNORED_EDGES)
                low = tl.minimum(tl.minimum(least, least_1), least_2)
                edge = _next(low) != tl.maximum(tl.maximum(most, most_1), most_2)
                valid = (k < length) & (own != IGNORE_INDEX)
                is_class = valid & (own >= 0) & (own < C)
                weight = tl.load(weight_2C + edge * C + own, is_class, 0.0)
                across = _lanes(_share(x, lane, w, stride, real, ALIGN_CORNERS))
                cross_entropy, slope = _softmax(
                    at_near + across * (at_far - at_near), c, own, weight
                )
                loss += tl.where(counts, weight * cross_entropy, 0.0)
                counted += (counts & valid).to(tl.int32)
                edges += (counts & valid & edge).to(tl.int32)
                if GRADIENT:
                    far_slope = across * slope
                    near_slope = slope - far_slope
                    near_sum += (1 - share) * near_slope
                    far_sum += (1 - share) * far_slope
                    next_near_sum += share * near_slope
                    next_far_sum += share * far_slope
                least, most, least_1, most_1, own = least_1, most_1, least_2, most_2, own_2
        if GRADIENT:
            lane_before = _lanes(tl.maximum(tl.arange(0, LANES) - 1, 0)) + 0 * c
            owned = cells & _lanes(lane >= left) & (y >= top)
            from_before = tl.gather(far_sum, lane_before, 1)
            tl.store(gradient + y * row_step + near, near_sum + from_before, owned)
        upper_near, upper_far = lower_near, lower_far
        near_sum, far_sum = next_near_sum, next_far_sum
    program = tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)
    program = program * tl.num_programs(0) + tl.program_id(0)
    tl.store(numerator + program, tl.sum(loss))
    tl.store(count_2 + 2 * program, tl.sum(counted))
    tl.store(count_2 + 2 * program + 1, tl.sum(edges))


@triton.jit
def _load(row, near, far, cells, real: tl.constexpr):
    """The logits of a row of cells on both sides of each lane."""
    # PADDING only now: float16 cannot hold it.
    near_logit = tl.where(cells, tl.load(row + near, cells, 0.0).to(real), PADDING)
    return near_logit, tl.where(cells, tl.load(row + far, cells, 0.0).to(real), PADDING)


@triton.jit
def _softmax(u, c, own, weight):
    """For one pixel a lane: lse(u) - u_own, and the gradient of `weight` times it."""
    largest = tl.max(tl.max(u, 0), 1)
    e = tl.exp(u - _lanes(largest))
    total = tl.sum(tl.sum(e, 0), 1)
    hit = c == _lanes(own)
    own_u = tl.sum(tl.sum(tl.where(hit, u, 0.0), 0), 1)
    slope = e * _lanes(weight / total) - tl.where(hit, _lanes(weight), 0.0)
    return largest - own_u + tl.log(total), slope


@triton.jit
def _lanes(x):
    """[LANES] as [1, LANES, 1].

    In this order, which undoes that of the sums over classes: by the layout that follows from it
    both lie in the same registers. The other way round, Triton 3.8 loads and compares the labels
    twice, once for each layout.
    """
    return tl.expand_dims(tl.expand_dims(x, 1), 0)


@triton.jit
def _offset(x, c, b, h, w, stride_b, stride_c, stride_x, C: tl.constexpr, PACKED: tl.constexpr):
    """Where the logit of class c at column x of the top row of cells stands."""
    x = _lanes(x).to(tl.int64)
    if PACKED:
        return (b * h * w + x) * C + c
    return b * stride_b + x * stride_x + c.to(tl.int64) * stride_c


@triton.jit
def _first_pixel(cell, cells, stride, ALIGN_CORNERS: tl.constexpr):
    """The first pixel that is not before `cell`, -1 <= cell; `cells` is beyond the last pixel."""
    pixels = cells * stride
    if ALIGN_CORNERS:
        numerator = tl.maximum(cell, 0) * (pixels - 1) + tl.maximum(cells - 2, 0)
        first = numerator // tl.maximum(cells - 1, 1)
    else:
        first = tl.maximum(cell * stride + stride // 2, 0)
    return tl.where(cell < cells, tl.minimum(first, pixels), pixels)


@triton.jit
def _share(pixel, cell, cells, stride, real: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """Share of cell + 1 in a pixel between it and `cell`; the outermost cell has all beyond it."""
    if ALIGN_CORNERS:
        denominator = tl.maximum(cells * stride - 1, 1)
        numerator = pixel * (cells - 1) - cell * denominator
    else:
        denominator = 2 * stride
        numerator = 2 * pixel + 1 - stride - cell * denominator
    share = numerator.to(real) * (1.0 / denominator.to(real))
    return tl.where(cell < 0, 1.0, tl.where(cell < cells - 1, share, 0.0)).to(real)


@triton.jit
def _column(label, row, x, height, width, IGNORED_EDGES: tl.constexpr):
    """Of three pixels above one another: the least label, the most + 1, the one in the middle.

    An ignored pixel is the largest label and, one added, the smallest: it wins neither. What lies
    outside the image is the nearest pixel inside.
    """
    label += tl.minimum(tl.maximum(x, 0), width - 1)
    own = tl.load(label + row * width).to(tl.int32)
    above = tl.load(label + tl.maximum(row - 1, 0) * width).to(tl.int32)
    below = tl.load(label + tl.minimum(row + 1, height - 1) * width).to(tl.int32)
    a, b, c = own, above, below
    if IGNORED_EDGES:
        a = tl.where(own == IGNORE_INDEX, 0, own)
        b = tl.where(above == IGNORE_INDEX, 0, above)
        c = tl.where(below == IGNORE_INDEX, 0, below)
    least = tl.minimum(tl.minimum(a, b), c)
    return least, tl.maximum(tl.maximum(_next(a), _next(b)), _next(c)), own


@triton.jit
def _next(label):
    return (label + 1) & 255
