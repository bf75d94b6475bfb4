"""The other gradients of depthwise convolution + LayerNorm: through the norm, and of the taps.

The pass through the norm also sums what scale and shift need. The gradients of the taps, 49 sums,
and of the bias stay in registers while a program walks down its columns. What programs sum they
leave apart, for another launch to add up in one order: no atomic additions, always the same bytes.

Axes: B batch, C channel, H W pixels, N pixels of all images, P programs, T = 7 ky + kx taps.
"""

import triton
import triton.language as tl

from kernels.depthwise_norm.triton import (
    REACH,
    SIDE,
    TAPS,
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
def sum_taps(
    slope,
    x,
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
    """For a program's pixels, sum the gradient of u times what each tap saw, and the gradient.

    Grid: (ceil(C / BLOCK), tiles, B); a program has `steps` times LINES rows of COLUMNS columns,
    and programs are numbered first by columns, then by rows, then by images.

    Args:
        slope: (B, H, W, C) packed, the gradient of u.
        x: as slope, the input.
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
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    has_c = c < C
    total = ()
    for _ in tl.static_range(TAPS + 1):
        total += (tl.zeros([LINES, BLOCK], real),)
    for first in range(top, tl.minimum(top + steps * LINES, H), LINES):
        line = first + tl.arange(0, LINES)[:, None]
        place = ((b * H + line) * W + left).to(tl.int64) * C + c
        has = line < H if C % BLOCK == 0 else (line < H) & has_c
        d = ()
        bias = total[TAPS]
        for i in tl.static_range(COLUMNS):
            inside = True if WHOLE else left + i < W
            d += (tl.load(slope + place + i * C, has & inside, 0.0).to(real),)
            bias += d[i]
        new = ()
        for ky in tl.static_range(SIDE):
            y = line + (ky - REACH)
            has = (y >= 0) & (y < H) if C % BLOCK == 0 else (y >= 0) & (y < H) & has_c
            row = x + place + (ky - REACH) * W * C
            v = ()
            for j in tl.static_range(COLUMNS + SIDE - 1):
                v += (load_column(row, j, has, left, W, C, COLUMNS, WHOLE).to(real),)
            for kx in tl.static_range(SIDE):
                tap = total[SIDE * ky + kx]
                for i in tl.static_range(COLUMNS):
                    tap += d[i] * v[i + kx]
                new += (tap,)
        new += (bias,)
        total = new
    program = b * tl.num_programs(1) + tl.program_id(1)
    place = sums_PTC + program.to(tl.int64) * (TAPS + 1) * C + c
    zero = tl.zeros([LINES, BLOCK], real)
    for _ in tl.static_range(6):
        total += (zero,)
    for first in tl.static_range(0, TAPS + 7, 8):
        eight = unstack(tl.sum(stack(total, first), 0, keep_dims=True))
        for i in tl.static_range(8):
            if first + i <= TAPS:
                tl.store(place + (first + i) * C, eight[i], has_c)
