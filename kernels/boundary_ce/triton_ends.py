"""What comes before and after the sweep of `triton.py`: codes of the labels, and the gradient.

Axes: B batch, C class, H W pixels, h w cells, T codes.
"""

import triton
import triton.language as tl

IGNORE_INDEX = tl.constexpr(255)
NO_LABEL = tl.constexpr(-1)
"""Stands for labels that no byte holds, which are as wrong."""


@triton.jit(do_not_specialize=["height", "width"])
def boundary_ce_encode(
    label,
    code,
    class_weight,
    weight_T,
    count_2K,
    ticket,
    height,
    width,
    boundary: tl.float64,
    C: tl.constexpr,
    EDGE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IGNORED_EDGES: tl.constexpr,
):
    """Write a code for each pixel, what each code weighs, and count the pixels of a tile.

    A code is the class, plus EDGE at a label edge; EDGE - 1 for what weighs nothing: pixels that
    are ignored, and labels that are no class, which count all the same.

    Grid: (ceil(W / COLUMNS), ceil(H / ROWS), B).

    Args:
        label: (B, H, W) contiguous integers; 255 = ignore.
        code: (B, H, W) contiguous integers, written.
        class_weight: (C,) contiguous, floating.
        weight_T: (2 EDGE,) float32 or float64, written: what a pixel weighs, by its code.
        count_2K: (2, programs) int32, written: pixels counted, those of them at edges.
        ticket: int32, becomes 0.
        height: rows of pixels.
        width: columns of pixels.
        boundary: what a pixel at an edge weighs.
        C: classes.
        EDGE: a power of two above C.
        ROWS: rows of pixels a program.
        COLUMNS: columns of pixels a program.
        IGNORED_EDGES: an ignored neighbour counts as class 0.
    """
    b = tl.program_id(2).to(tl.int64)
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    top = tl.program_id(1) * ROWS
    label += b * height * width
    # All that is read is asked for at once, before the first store.
    least, most, own = (), (), ()
    for r in tl.static_range(ROWS + 2):
        row = tl.minimum(tl.maximum(top - 1 + r, 0), height - 1)
        some = _beside(label + row * width, x, width, IGNORED_EDGES)
        least += (some[0],)
        most += (some[1],)
        own += (some[2],)
    counted, edges = tl.zeros([COLUMNS], tl.int32), tl.zeros([COLUMNS], tl.int32)
    for r in tl.static_range(1, ROWS + 1):
        inside = (x < width) & (top - 1 + r < height)
        low = tl.minimum(tl.minimum(least[r - 1], least[r]), least[r + 1])
        edge = low != tl.maximum(tl.maximum(most[r - 1], most[r]), most[r + 1])
        valid = inside & (own[r] != IGNORE_INDEX)
        counted += valid.to(tl.int32)
        edges += (valid & edge).to(tl.int32)
        is_class = (own[r] >= 0) & (own[r] < C) & (own[r] != IGNORE_INDEX)
        pixel = code + (b * height + top - 1 + r) * width + x
        value = tl.where(is_class, own[r] + tl.where(edge, EDGE, 0), EDGE - 1)
        tl.store(pixel, value.to(code.dtype.element_ty), inside)
    program = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0)
    program += tl.program_id(0)
    programs = tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2)
    tl.store(count_2K + program, tl.sum(counted))
    tl.store(count_2K + programs + program, tl.sum(edges))
    if program == 0:
        tl.store(ticket, 0)
        at = tl.arange(0, 2 * EDGE)
        c = at % EDGE
        weight = tl.load(class_weight + c, c < C, 0.0).to(tl.float64)
        weight *= tl.where(at < EDGE, 1.0, tl.zeros([2 * EDGE], tl.float64) + boundary)
        tl.store(weight_T + at, weight.to(weight_T.dtype.element_ty))


@triton.jit
def _beside(label, x, width, IGNORED_EDGES: tl.constexpr):
    """Of three pixels beside one another: the least label, the most, the one in the middle.

    What lies outside the image is the nearest pixel inside.
    """
    own = _read(label + tl.minimum(x, width - 1))
    a, b = _least_and_most(own, IGNORED_EDGES)
    before = _read(label + tl.minimum(tl.maximum(x - 1, 0), width - 1))
    c, d = _least_and_most(before, IGNORED_EDGES)
    after = _read(label + tl.minimum(x + 1, width - 1))
    e, f = _least_and_most(after, IGNORED_EDGES)
    return tl.minimum(tl.minimum(a, c), e), tl.maximum(tl.maximum(b, d), f), own


@triton.jit
def _least_and_most(label, IGNORED_EDGES: tl.constexpr):
    """What a label counts as in the least and in the most of several.

    An ignored one is the largest and shall be the smallest too: it wins neither.
    """
    if IGNORED_EDGES:
        least = tl.where(label == IGNORE_INDEX, 0, label)
        most = least
    else:
        least = label
        most = tl.where(label == IGNORE_INDEX, NO_LABEL - 1, label)
    return least, most


@triton.jit
def _read(pointer):
    label = tl.load(pointer)
    if label.dtype != tl.uint8:
        # Cut to 32 bits, 2^32 would be class 0.
        label = label.to(tl.int64)
        label = tl.where((label >= 0) & (label <= IGNORE_INDEX), label, NO_LABEL)
    return label.to(tl.int32)


@triton.jit(do_not_specialize=["h", "w", "stride_b", "stride_y", "stride_x"])
def boundary_ce_finish(
    slope,
    factor,
    grad_loss,
    gradient,
    h,
    w,
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    C: tl.constexpr,
    P: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    STRIP: tl.constexpr,
):
    """Write the gradient: of each cell, what up to four programs of the sweep found, scaled.

    Grid: (ceil(w / COLUMNS), h, B).

    Args:
        slope: what `boundary_ce_sweep` wrote.
        factor: float64, likewise.
        grad_loss: scalar, floating: the gradient of the loss.
        gradient: (B, C, h, w) with the given strides, floating, written.
        h: rows of cells.
        w: columns of cells.
        stride_b: stride of the gradient from image to image; likewise class, row, column.
        stride_c: see stride_b.
        stride_y: see stride_b.
        stride_x: see stride_b.
        C: classes.
        P: a power of two that is at least C.
        COLUMNS: columns of cells a program.
        LANES: of `boundary_ce_sweep`.
        STRIP: of `boundary_ce_sweep`.
    """
    real: tl.constexpr = slope.dtype.element_ty
    b, y = tl.program_id(2).to(tl.int64), tl.program_id(1)
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    c = tl.arange(0, P)[None, :]
    tiles, strips = (w + LANES - 1) // LANES, (h + STRIP - 1) // STRIP
    block: tl.constexpr = (STRIP + 1) * C * (LANES + 1)
    strip = b * strips + y // STRIP
    here = slope + (strip * tiles + x // LANES) * block
    here += (y % STRIP * C + c) * (LANES + 1) + x % LANES
    inside = (x < w) & (c < C)
    # A program's first column is the last one of the program before it: LANES after its own.
    seam = inside & (x % LANES == 0) & (x > 0)
    total = tl.load(here, inside, 0.0) + tl.load(here - block + LANES, seam, 0.0)
    if (y % STRIP == 0) & (y > 0):
        above = here - tiles * block + STRIP * C * (LANES + 1)
        total += tl.load(above, inside, 0.0) + tl.load(above - block + LANES, seam, 0.0)
    scale = (tl.load(grad_loss).to(tl.float64) * tl.load(factor)).to(real)
    gradient += b * stride_b + y.to(tl.int64) * stride_y
    at = gradient + x.to(tl.int64) * stride_x + c * stride_c
    tl.store(at, (total * scale).to(gradient.dtype.element_ty), inside)
