"""Depthwise 7 x 7 convolution + LayerNorm over channels on the GPU.

A convolution without sums over channels is bound by the float32 units, 49 multiply-adds a value, as
soon as little else is done. So a thread keeps COLUMNS neighbouring outputs of a row, of four
channels, in registers: what it loads and widens is used for up to seven of them, a tap for all. A
program has LINES such rows, so that most of what lies above and below them comes from the L1 cache.

A program has all channels of its pixels: mean and variance are sums over its threads. The gradients
are in triton_backward.py. Everything is packed NHWC.

Axes: B batch, C channel, H W pixels, N pixels of all images, T = 7 ky + kx taps.
"""

import triton
import triton.language as tl

SIDE = tl.constexpr(7)
REACH = tl.constexpr(3)
TAPS = tl.constexpr(49)


# Specialising on sizes would compile a kernel anew for each.
@triton.jit(do_not_specialize=["H", "W"])
def convolve_and_normalise(
    x,
    taps_TC,
    bias_C,
    gamma_C,
    beta_C,
    y,
    normal,
    rstd_N,
    H,
    W,
    EPS: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """Write y = gamma n + beta, n = (u - mean u) / sqrt(var u + EPS), u = x * taps + bias.

    Grid: (ceil(W / COLUMNS), ceil(H / LINES), B).

    Args:
        x: (B, H, W, C) packed, floating.
        taps_TC: (49, C), floating.
        bias_C: (C,), floating; gamma and beta likewise.
        gamma_C: see bias_C.
        beta_C: see bias_C.
        y: as x, written.
        normal: as x, written if GRADIENT: n.
        rstd_N: (B H W,), written if GRADIENT: 1 / sqrt(var u + EPS). Sums are of its dtype.
        H: rows.
        W: columns.
        EPS: of the norm.
        C: channels.
        BLOCK: a power of two >= C.
        LINES: rows of a program.
        COLUMNS: of a program, a multiple of 8.
        WHOLE: W is a multiple of COLUMNS.
        GRADIENT: write what the backward pass needs.
    """
    real: tl.constexpr = rstd_N.dtype.element_ty
    left, b = tl.program_id(0) * COLUMNS, tl.program_id(2)
    line = tl.program_id(1) * LINES + tl.arange(0, LINES)[:, None]
    c = everywhere(tl.arange(0, BLOCK), LINES)
    product = _convolve(x, taps_TC, b, line, left, c, H, W, C, BLOCK, COLUMNS, WHOLE, real)
    # Only now: where the bias is large, each product added to it would be rounded as coarsely.
    bias = of_channels(bias_C, c, C, BLOCK, real)
    u = ()
    for column in tl.static_range(COLUMNS):
        u += (product[column] + bias,)
    gamma = of_channels(gamma_C, c, C, BLOCK, real)
    beta = of_channels(beta_C, c, C, BLOCK, real)
    pixel = (b * H + line) * W + left
    place = pixel.to(tl.int64) * C + c
    has = line < H if C == BLOCK else (line < H) & (c < C)
    for first in tl.static_range(0, COLUMNS, 8):
        # Eight outputs at once: one exchange among warps instead of eight.
        tile = stack(u, first)
        offset = tile - tl.sum(tile, 1, keep_dims=True) * (1.0 / C)
        if C < BLOCK:
            is_channel = tl.reshape(tl.arange(0, BLOCK) < C, [1, BLOCK, 1, 1, 1])
            offset = tl.where(is_channel, offset, 0.0)
        variance = tl.sum(offset * offset, 1, keep_dims=True) * (1.0 / C)
        rstd = 1.0 / tl.sqrt(variance + EPS)
        n = unstack(offset * rstd)
        for i in tl.static_range(8):
            column = first + i
            inside = True if WHOLE else left + column < W
            value = (n[i] * gamma + beta).to(y.dtype.element_ty)
            tl.store(y + place + column * C, value, has & inside)
            if GRADIENT:
                value = n[i].to(normal.dtype.element_ty)
                tl.store(normal + place + column * C, value, has & inside)
        if GRADIENT:
            column = first + tl.arange(0, 8)[None, :]
            inside = (line < H) & (left + column < W)
            tl.store(rstd_N + pixel + column, tl.reshape(rstd, [LINES, 8]), inside)


@triton.jit
def _convolve(
    x,
    taps,
    b,
    line,
    left,
    c,
    H,
    W,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
    real: tl.constexpr,
):
    """The convolution at COLUMNS pixels from `left` on, each of `c`'s shape."""
    out = ()
    for _ in tl.static_range(COLUMNS):
        out += (tl.zeros(c.shape, real),)
    x += ((b * H + line - REACH) * W + left).to(tl.int64) * C + c
    for ky in range(SIDE):
        w = ()
        for kx in tl.static_range(SIDE):
            w += (of_channels(taps + (SIDE * ky + kx) * C, c, C, BLOCK, real),)
        y = line + ky - REACH
        has = (y >= 0) & (y < H) if C % BLOCK == 0 else (y >= 0) & (y < H) & (c < C)
        for j in tl.static_range(COLUMNS + SIDE - 1):
            v = load_column(x, j, has, left, W, C, COLUMNS, WHOLE).to(real)
            new = ()
            for i in tl.static_range(COLUMNS):
                if (j >= i) and (j < i + SIDE):
                    new += (out[i] + v * w[j - i],)
                else:
                    new += (out[i],)
            out = new
        x += W * C
    return out


@triton.jit
def load_column(
    x,
    j: tl.constexpr,
    has,
    left,
    W,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Column left + j - 3 of a row; `x` is at `left`, a multiple of COLUMNS.

    The three before the first share one comparison, and where W is whole so do those after the
    last; those between need none.
    """
    if j < REACH:
        has &= left > 0
    elif not WHOLE:
        has &= left + (j - REACH) < W
    elif j >= COLUMNS + REACH:
        has &= left + COLUMNS < W
    return tl.load(x + (j - REACH) * C, has, 0.0)


@triton.jit
def everywhere(c, LINES: tl.constexpr):
    """[BLOCK] as [LINES, BLOCK]: what is loaded by it needs no exchange between warps."""
    return c[None, :] + tl.zeros([LINES, 1], tl.int32)


@triton.jit
def of_channels(array, c, C: tl.constexpr, BLOCK: tl.constexpr, real: tl.constexpr):
    """array[c], 0 from C on."""
    if C % BLOCK == 0:
        return tl.load(array + c).to(real)
    return tl.load(array + c, c < C, 0.0).to(real)


@triton.jit
def stack(u, first: tl.constexpr):
    """Eight tensors from `first` on as one with three more axes of 2; no register moves."""
    a = tl.join(tl.join(u[first], u[first + 4]), tl.join(u[first + 2], u[first + 6]))
    b = tl.join(tl.join(u[first + 1], u[first + 5]), tl.join(u[first + 3], u[first + 7]))
    return tl.join(a, b)


@triton.jit
def unstack(tile):
    """What `stack` was given."""
    a, b = tl.split(tile)
    a0, a1 = tl.split(a)
    b0, b1 = tl.split(b)
    u0, u4 = tl.split(a0)
    u2, u6 = tl.split(a1)
    u1, u5 = tl.split(b0)
    u3, u7 = tl.split(b1)
    return u0, u1, u2, u3, u4, u5, u6, u7
