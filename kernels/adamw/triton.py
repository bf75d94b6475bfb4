"""AdamW, weight average and gradient norm on the GPU, for all tensors of a network at once.

A program takes one chunk of one tensor: a table says which, and where that tensor's parameter,
gradient, moments and average lie. It reads each once and writes what changed. Chunks begin at
multiples of CHUNK, and tensors at multiples of 16 bytes, so whole blocks are read and written 128
bits a thread; only the rest of a tensor's last chunk goes by single values. Sums have a fixed
order: one partial sum a chunk, then all partial sums in one program.

Arguments of the kernels:

    table_KT   (ROWS, T) int64: addresses of the T tensors of each kind, and their sizes in elements
    chunk_N2   (N, 2) int32: tensor, and number of the chunk within it
    partial_N  (N,) float32: sums of squared gradients
    scale_3T   (3, T) float32: the three SCALE_ rows below
    norm_2     (2,) float32: norm of all gradients, factor that clips them
    weight     one float32: of the new parameter in its average
    decay_T    (T,) float32: weight decay
"""

import triton
import triton.language as tl

PARAMETER, GRADIENT, FIRST, SECOND = (tl.constexpr(row) for row in range(4))
AVERAGE, STEP, LR, SIZE = (tl.constexpr(row) for row in range(4, 8))
"""Rows of the table."""

SCALE_DECAY, SCALE_STEP, SCALE_ROOT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""Learning rate x decay; learning rate / bias of the first moment; 1 / root of the second's."""


@triton.jit(do_not_specialize=["T"])
def sum_squares(table_KT, chunk_N2, partial_N, T, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Sum the squares of a chunk of the gradients. Grid: (N,)."""
    n = tl.program_id(0)
    t, start, count = _chunk(table_KT, chunk_N2, n, T, CHUNK)
    gradient = _at(table_KT, GRADIENT, t, T) + start
    square = tl.zeros([BLOCK], tl.float32)
    i = tl.arange(0, BLOCK)
    for _ in range(count // BLOCK):
        value = tl.load(tl.multiple_of(gradient + i, 16))
        square += value * value
        gradient += BLOCK
    if count % BLOCK > 0:
        value = tl.load(gradient + i, i < count % BLOCK, 0.0)
        square += value * value
    tl.store(partial_N + n, tl.sum(square, 0))


@triton.jit(do_not_specialize=["N"])
def finish_norm(partial_N, norm_2, N, clip_norm, CLIP_EPSILON: tl.constexpr, BLOCK: tl.constexpr):
    """Make the norm of the partial sums, and the factor that clips. Grid: (1,)."""
    square = tl.zeros([BLOCK], tl.float32)
    i = tl.arange(0, BLOCK)
    for first in range(0, N, BLOCK):
        square += tl.load(partial_N + first + i, first + i < N, 0.0)
    norm = tl.sqrt(tl.sum(square, 0))
    factor = clip_norm / (norm + CLIP_EPSILON)
    tl.store(norm_2, norm)
    # Not a minimum, which would lose a NaN.
    tl.store(norm_2 + 1, tl.where(factor > 1.0, 1.0, factor))


@triton.jit(do_not_specialize=["T"])
def count_step(
    table_KT,
    decay_T,
    scale_3T,
    T,
    LOG_BETA1: tl.constexpr,
    LOG_BETA2: tl.constexpr,
    LANES: tl.constexpr,
):
    """Count one more step of each tensor, and what it scales by. Grid: (ceil(T / LANES),)."""
    t = tl.program_id(0) * LANES + tl.arange(0, LANES)
    within = t < T
    at_step = _pointer(tl.load(table_KT + STEP * T + t, within, 0))
    taken = tl.load(at_step, within, 0.0) + 1.0
    tl.store(at_step, taken, within)
    lr = tl.load(_pointer(tl.load(table_KT + LR * T + t, within, 0)), within, 0.0).to(tl.float64)
    # In float64, for 1 - 0.999 has five digits in float32; a few lanes, once a step.
    of_first = 1.0 - tl.exp(taken.to(tl.float64) * LOG_BETA1)
    of_second = 1.0 - tl.exp(taken.to(tl.float64) * LOG_BETA2)
    decay = lr * tl.load(decay_T + t, within, 0.0).to(tl.float64)
    tl.store(scale_3T + SCALE_DECAY * T + t, decay.to(tl.float32), within)
    tl.store(scale_3T + SCALE_STEP * T + t, (lr / of_first).to(tl.float32), within)
    tl.store(scale_3T + SCALE_ROOT * T + t, (1.0 / tl.sqrt(of_second)).to(tl.float32), within)


@triton.jit(do_not_specialize=["T"])
def update_weights(
    table_KT,
    chunk_N2,
    partial_N,
    scale_3T,
    norm_2,
    weight,
    T,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    EPSILON: tl.constexpr,
    CLIP: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Move a chunk of parameters, moments and averages. Grid: (N,).

    With CLIP the factor of `finish_norm` is applied; without, the squares of the gradients, which
    pass by in any case, are summed here, and `sum_squares` is not needed.
    """
    n = tl.program_id(0)
    t, start, count = _chunk(table_KT, chunk_N2, n, T, CHUNK)
    parameter = _at(table_KT, PARAMETER, t, T) + start
    gradient = _at(table_KT, GRADIENT, t, T) + start
    first = _at(table_KT, FIRST, t, T) + start
    second = _at(table_KT, SECOND, t, T) + start
    average = _at(table_KT, AVERAGE, t, T) + start
    decay = tl.load(scale_3T + SCALE_DECAY * T + t)
    size = tl.load(scale_3T + SCALE_STEP * T + t)
    root = tl.load(scale_3T + SCALE_ROOT * T + t)
    share = tl.load(weight)
    factor = tl.load(norm_2 + 1) if CLIP else 1.0
    square = tl.zeros([BLOCK], tl.float32)
    rest = count % BLOCK
    for block in range(count // BLOCK):
        i = block * BLOCK + tl.arange(0, BLOCK)
        # Said here: Triton derives nothing for addresses that come from integers.
        at = (
            tl.multiple_of(parameter + i, 16),
            tl.multiple_of(gradient + i, 16),
            tl.multiple_of(first + i, 16),
            tl.multiple_of(second + i, 16),
            tl.multiple_of(average + i, 16),
        )
        square += _move(at, i, 0, decay, size, root, share, factor, BETA1, BETA2, EPSILON, True)
    if rest > 0:
        i = count - rest + tl.arange(0, BLOCK)
        at = (parameter + i, gradient + i, first + i, second + i, average + i)
        square += _move(
            at, i, count, decay, size, root, share, factor, BETA1, BETA2, EPSILON, False
        )
    if not CLIP:
        tl.store(partial_N + n, tl.sum(square, 0))


@triton.jit
def _move(
    at,
    i,
    count,
    decay,
    size,
    root,
    share,
    factor,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    EPSILON: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Move one block, of which the elements below `count` exist; returns its squared gradients."""
    # Two forms of one block: under a mask of any length a thread loads value by value.
    if WHOLE:
        parameter, gradient = tl.load(at[0]), tl.load(at[1])
        first, second, average = tl.load(at[2]), tl.load(at[3]), tl.load(at[4])
    else:
        within = i < count
        parameter, gradient = tl.load(at[0], within, 0.0), tl.load(at[1], within, 0.0)
        first, second = tl.load(at[2], within, 0.0), tl.load(at[3], within, 0.0)
        average = tl.load(at[4], within, 0.0)
    clipped = gradient * factor
    # Not times (1 - decay): near 1 a float32 keeps two digits of 1e-6.
    parameter -= decay * parameter
    first += (1.0 - BETA1) * (clipped - first)
    second = BETA2 * second + (1.0 - BETA2) * clipped * clipped
    parameter -= size * first / (tl.sqrt(second) * root + EPSILON)
    # As `torch.lerp`, exact at both ends.
    apart = parameter - average
    average = tl.where(share < 0.5, average + share * apart, parameter - (1.0 - share) * apart)
    if WHOLE:
        tl.store(at[0], parameter)
        tl.store(at[2], first)
        tl.store(at[3], second)
        tl.store(at[4], average)
    else:
        within = i < count
        tl.store(at[0], parameter, within)
        tl.store(at[2], first, within)
        tl.store(at[3], second, within)
        tl.store(at[4], average, within)
    return gradient * gradient


@triton.jit
def _chunk(table_KT, chunk_N2, n, T, CHUNK: tl.constexpr):
    """Tensor of chunk n, where in it the chunk begins, and its length."""
    t = tl.load(chunk_N2 + 2 * n)
    start = tl.load(chunk_N2 + 2 * n + 1).to(tl.int64) * CHUNK
    count = tl.minimum(tl.load(table_KT + SIZE * T + t) - start, CHUNK)
    return t, start, count.to(tl.int32)


@triton.jit
def _at(table_KT, row: tl.constexpr, t, T):
    """Where tensor t of a kind begins."""
    return _pointer(tl.load(table_KT + row * T + t))


@triton.jit
def _pointer(address):
    return address.to(tl.pointer_type(tl.float32))
