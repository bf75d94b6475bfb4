"""The gradients of depthwise convolution + LayerNorm on the GPU: through the norm, then the rest.

The pass through the norm also sums what scale and shift need. The next convolves with the taps in
reverse, for the gradient of the input, and for those of taps and bias keeps 50 sums in registers
while a program walks down its columns. What programs sum they leave apart, for another launch to
add up in one order: no atomic additions, always the same bytes.

Axes: B batch, C channel, H W pixels, N pixels of all images, P programs, T = 7 ky + kx taps.
"""

import triton
import triton.language as tl

from kernels.depthwise_norm.triton import (
    REACH,
    SIDE,
    TAPS,
    everywhere,
    load_column,
    of_channels,
    stack,
    unstack,
)


# Specialising on sizes would compile a kernel anew for each.
@triton.jit(do_not_specialize=["N"])
def normalise_backward(
    grad_y,
    normal,
    rstd_N,
    gamma_C,
    slope,
    sums_P2C,
    N,
    C: tl.constexpr,
    PARTS: tl.constexpr,
    PIXELS: tl.constexpr,
    PART: tl.constexpr,
):
    """Write the gradient of u, and for a program's pixels the sums of grad_y n and of grad_y.

    With g = gamma grad_y it is rstd (g - mean g - n mean(g n)). Grid: (P,).

    Args:
        grad_y: (N, C) packed, floating.
        normal: (N, C), n.
        rstd_N: (N,).
        gamma_C: (C,), floating.
        slope: (N, C), written.
        sums_P2C: (P, 2, C) of rstd's dtype, written.
        N: pixels of all images.
        C: channels.
        PARTS: into which channels are split; a pixel is one warp's, or less.
        PIXELS: at once.
        PART: channels of a part, a power of two; PARTS PART >= C.
    """
    real: tl.constexpr = rstd_N.dtype.element_ty
    c = tl.arange(0, PARTS)[:, None, None] * PART + tl.arange(0, PART)[None, None, :]
    gamma = of_channels(gamma_C, c, C, PARTS * PART, real)
    by_gamma = tl.zeros([PARTS, PIXELS, PART], real)
    by_beta = tl.zeros([PARTS, PIXELS, PART], real)
    for first in range(tl.program_id(0) * PIXELS, N, tl.num_programs(0) * PIXELS):
        pixel = first + tl.arange(0, PIXELS)[None, :, None]
        has = pixel < N if C == PARTS * PART else (pixel < N) & (c < C)
        place = pixel.to(tl.int64) * C + c
        dy = tl.load(grad_y + place, has, 0.0).to(real)
        n = tl.load(normal + place, has, 0.0).to(real)
        rstd = tl.load(rstd_N + pixel, pixel < N, 0.0)
        by_gamma += dy * n
        by_beta += dy
        g = gamma * dy
        # Parts last: they are a thread's own.
        mean = tl.sum(tl.sum(g, 2, keep_dims=True), 0, keep_dims=True) * (1.0 / C)
        along = tl.sum(tl.sum(g * n, 2, keep_dims=True), 0, keep_dims=True) * (1.0 / C)
        du = rstd * (g - mean - n * along)
        tl.store(slope + place, du.to(slope.dtype.element_ty), has)
    place = sums_P2C + tl.program_id(0) * 2 * C + c
    tl.store(place, tl.sum(by_gamma, 1, keep_dims=True), c < C)
    tl.store(place + C, tl.sum(by_beta, 1, keep_dims=True), c < C)


@triton.jit(do_not_specialize=["H", "W", "steps"])
def convolve_backward(
    slope,
    x,
    taps_TC,
    residual,
    grad_x,
    sums_PTC,
    H,
    W,
    steps,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Write the gradient of x, and for a program's pixels the sums for those of taps and bias.

    Of a pixel both need what lies around it of the gradient of u: times the taps in reverse, and
    times x. Grid: (ceil(C / BLOCK), tiles, B); a program has `steps` times LINES rows of COLUMNS
    columns, and programs are numbered first by columns, then by rows, then by images.

    Args:
        slope: (B, H, W, C) packed, the gradient of u.
        x: as slope, the input.
        taps_TC: (49, C), floating.
        residual: as slope, the gradient that reaches x past the convolution; or None.
        grad_x: as slope, written.
        sums_PTC: (P, 50, C), float32 or float64, written; the last is the bias's.
        H: rows.
        W: columns.
        steps: see above.
        C: channels.
        BLOCK: channels of a program.
        LINES: rows at once.
        COLUMNS: of a program.
        WHOLE: see convolve_and_normalise.
    """
    real: tl.constexpr = sums_PTC.dtype.element_ty
    across, b = (W + COLUMNS - 1) // COLUMNS, tl.program_id(2)
    left, top = tl.program_id(1) % across * COLUMNS, tl.program_id(1) // across * steps * LINES
    c = everywhere(tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), LINES)
    # From the last to the first: the bias's sum, then the taps' in reverse.
    total = ()
    for _ in tl.static_range(TAPS + 1):
        total += (tl.zeros([LINES, BLOCK], real),)
    for first in range(top, tl.minimum(top + steps * LINES, H), LINES):
        line = first + tl.arange(0, LINES)[:, None]
        place = ((b * H + line) * W + left).to(tl.int64) * C + c
        own = line < H if C % BLOCK == 0 else (line < H) & (c < C)
        centre = ()
        out = ()
        for i in tl.static_range(COLUMNS):
            inside = True if WHOLE else left + i < W
            centre += (tl.load(x + place + i * C, own & inside, 0.0).to(real),)
            if residual is None:
                out += (tl.zeros([LINES, BLOCK], real),)
            else:
                out += (tl.load(residual + place + i * C, own & inside, 0.0).to(real),)
        bias = total[0]
        new = ()
        for ky in tl.static_range(SIDE):
            sums = ()
            for kx in tl.static_range(SIDE):
                sums += (total[SIDE * ky + kx + 1],)
            # Almost always so. But ptxas moves no load across a branch, and would otherwise load
            # all seven rows ahead, which takes more registers than there are.
            if first + ky < H + REACH:
                y = line + (ky - REACH)
                has = (y >= 0) & (y < H) if C % BLOCK == 0 else (y >= 0) & (y < H) & (c < C)
                row = slope + place + (ky - REACH) * W * C
                w = ()
                for kx in tl.static_range(SIDE):
                    tap = taps_TC + (TAPS - 1 - SIDE * ky - kx) * C
                    w += (of_channels(tap, c, C, BLOCK, real),)
                for j in tl.static_range(COLUMNS + SIDE - 1):
                    d = load_column(row, j, has, left, W, C, COLUMNS, WHOLE).to(real)
                    if (ky == REACH) and (j >= REACH) and (j < COLUMNS + REACH):
                        bias += d
                    out = _add_times(out, d, w, j, COLUMNS, SIDE)
                    sums = _add_times(sums, d, centre, j, SIDE, COLUMNS)
            new += sums
        total = (bias,) + new  # noqa: RUF005 - Triton knows no unpacking
        for i in tl.static_range(COLUMNS):
            inside = True if WHOLE else left + i < W
            at = grad_x + place + i * C
            tl.store(at, out[i].to(grad_x.dtype.element_ty), own & inside)
    program = b * tl.num_programs(1) + tl.program_id(1)
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    _store_sums(sums_PTC + program.to(tl.int64) * (TAPS + 1) * C + c, total, c < C, C)


@triton.jit
def _add_times(sums, d, factors, j: tl.constexpr, COUNT: tl.constexpr, REACHED: tl.constexpr):
    """Column j of a row times a factor, added to each of COUNT sums that reaches that far.

    Sum i reaches REACHED columns from its own on, which have a factor each.
    """
    new = ()
    for i in tl.static_range(COUNT):
        if (j >= i) and (j < i + REACHED):
            new += (sums[i] + d * factors[j - i],)
        else:
            new += (sums[i],)
    return new


@triton.jit
def _store_sums(place, total, has_c, C: tl.constexpr):
    """Add up over a program's rows and store, from the last to the first."""
    for _ in tl.static_range(6):
        total += (tl.zeros_like(total[0]),)
    for first in tl.static_range(0, TAPS + 7, 8):
        eight = unstack(tl.sum(stack(total, first), 0, keep_dims=True))
        for i in tl.static_range(8):
            if first + i <= TAPS:
                tl.store(place + (TAPS - first - i) * C, eight[i], has_c)
