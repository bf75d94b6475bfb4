"""Counting blends on the GPU, a pixel a thread.

Of two models no candidate is looked at: a pixel's winners over the candidates are the upper
envelope of its classes' lines (cpu_envelope.py), which is walked once. Of more models, or more
classes than a thread can hold, some candidates at a time are compared, and their winners counted by
`count_pairs`.

Axes: K candidates, M models, L pixels of a run, P pairs (truth, prediction).

Arguments of the kernels beside those of triton.py:

    prob..     each model's contiguous (B, CLASSES, h, w), floating
    weight_KM  contiguous, of the type that is blended in
    SIZES      h and w of each model in turn
"""

import triton
import triton.language as tl

from kernels.confusion.triton import place, taps_of, value_at


@triton.jit
def walk_blends(
    prob_0,
    prob_1,
    weight_KM,
    share_K,
    proper,
    label_BHW,
    winner_BHW,
    note_KP,
    B,
    H,
    W,
    K,
    SIZES: tl.constexpr,
    CLASSES: tl.constexpr,
    STEPS: tl.constexpr,
    L: tl.constexpr,
):
    """Write each pixel's winner at the first candidate and note where along them it changes.

    Candidates come in the order of `share_K`, that of the second model. `note_KP` is added to: of
    each pair, how many more pixels there are from candidate k on; int32. `proper` is one uint8: no
    weight is negative and none of a candidate's sums is 0; if it is 0 every candidate is compared
    with the one before. K < 2^STEPS. Grid: (programs,); program i takes the runs i, i + programs..
    """
    real: tl.constexpr = weight_KM.dtype.element_ty
    last = weight_KM + 2 * (K - 1)
    first_0, first_1 = tl.load(weight_KM), tl.load(weight_KM + 1)
    last_0, last_1 = tl.load(last), tl.load(last + 1)
    may_walk = tl.load(proper) != 0
    for run in range(tl.program_id(0), B * H * tl.cdiv(W, L), tl.num_programs(0)):
        b, y, x_L = place(run, H, W, L)
        at_L = (b * H + y) * W + x_L
        start_CL = _values(prob_0, b, y, x_L, H, W, SIZES[0], SIZES[1], real, CLASSES)
        stop_CL = _values(prob_1, b, y, x_L, H, W, SIZES[2], SIZES[3], real, CLASSES)
        now_L = _winner(start_CL, stop_CL, first_0, first_1, CLASSES)
        tl.store(winner_BHW + at_L, now_L.to(tl.uint8), x_L < W)
        truth_L = tl.load(label_BHW + at_L, x_L < W, CLASSES).to(tl.int32)
        counted_L = truth_L < CLASSES
        row_L = note_KP + truth_L * CLASSES
        if may_walk:
            last_L = _winner(start_CL, stop_CL, last_0, last_1, CLASSES)
            since_L = tl.zeros([L], tl.int32)
            going_L = counted_L & (now_L != last_L)
            while tl.max(going_L.to(tl.int32), 0) > 0:
                next_L, lag_L, rise_L = _next_crossing(start_CL, stop_CL, now_L, real, CLASSES)
                since_L = _search(share_K, since_L, K, STEPS, next_L > now_L, lag_L, rise_L)
                going_L &= since_L < K
                _note(row_L + since_L * (CLASSES * CLASSES), now_L, next_L, going_L)
                now_L = tl.where(going_L, next_L, now_L)
                going_L &= now_L != last_L
        else:
            for k in range(1, K):
                weight_M = weight_KM + 2 * k
                next_L = _winner(
                    start_CL, stop_CL, tl.load(weight_M), tl.load(weight_M + 1), CLASSES
                )
                changed_L = counted_L & (next_L != now_L)
                _note(row_L + k * (CLASSES * CLASSES), now_L, next_L, changed_L)
                now_L = next_L


@triton.jit
def write_blends(
    prob_M,
    weight_KM,
    winner_KBHW,
    H,
    W,
    K,
    n,
    SIZES: tl.constexpr,
    CLASSES: tl.constexpr,
    AT_ONCE: tl.constexpr,
    L: tl.constexpr,
):
    """Write the winners of K <= AT_ONCE blends. Grid: (B * H * ceil(W / L),)."""
    M: tl.constexpr = len(SIZES) // 2
    real: tl.constexpr = weight_KM.dtype.element_ty
    b, y, x_L = place(tl.program_id(0), H, W, L)
    largest_K = ()  # type: tuple[tl.tensor, ...]
    winner_K = ()  # type: tuple[tl.tensor, ...]
    for _ in tl.static_range(AT_ONCE):
        largest_K += (tl.full([L], -float("inf"), real),)
        winner_K += (tl.zeros([L], tl.int32),)
    for c in range(CLASSES):
        value_M = ()  # type: tuple[tl.tensor, ...]
        for m in tl.static_range(M):
            h, w = SIZES[2 * m], SIZES[2 * m + 1]
            taps = taps_of(y, x_L, H, W, h, w, w, 1, real, True)
            value_M += (value_at(prob_M[m] + (b * CLASSES + c) * (h * w), taps, real, True),)
        largest_now_K = ()  # type: tuple[tl.tensor, ...]
        winner_now_K = ()  # type: tuple[tl.tensor, ...]
        for k in tl.static_range(AT_ONCE):
            weight_M = weight_KM + tl.minimum(k, K - 1) * M
            blend_L = tl.load(weight_M) * value_M[0]
            for m in tl.static_range(1, M):
                blend_L += tl.load(weight_M + m) * value_M[m]
            larger_L = blend_L > largest_K[k]
            largest_now_K += (tl.where(larger_L, blend_L, largest_K[k]),)
            winner_now_K += (tl.where(larger_L, c, winner_K[k]),)
        largest_K, winner_K = largest_now_K, winner_now_K
    at_L = winner_KBHW + (b * H + y) * W + x_L
    for k in tl.static_range(AT_ONCE):
        tl.store(at_L, winner_K[k].to(tl.uint8), (x_L < W) & (k < K))
        at_L += n


@triton.jit
def _values(
    prob,
    b,
    y,
    x_L,
    H,
    W,
    h: tl.constexpr,
    w: tl.constexpr,
    real: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """A tuple of CLASSES tensors (L,): one model's values."""
    taps = taps_of(y, x_L, H, W, h, w, w, 1, real, True)
    image = prob + b * (CLASSES * h * w)
    value_CL = ()  # type: tuple[tl.tensor, ...]
    for c in tl.static_range(CLASSES):
        value_CL += (value_at(image + c * h * w, taps, real, True),)
    return value_CL


@triton.jit
def _winner(start_CL, stop_CL, weight_0, weight_1, CLASSES: tl.constexpr):
    """The class of the largest blend, the first of equals."""
    largest_L = weight_0 * start_CL[0] + weight_1 * stop_CL[0]
    winner_L = tl.zeros(largest_L.shape, tl.int32)
    for c in tl.static_range(1, CLASSES):
        blend_L = weight_0 * start_CL[c] + weight_1 * stop_CL[c]
        larger_L = blend_L > largest_L
        largest_L = tl.where(larger_L, blend_L, largest_L)
        winner_L = tl.where(larger_L, c, winner_L)
    return winner_L


@triton.jit
def _next_crossing(start_CL, stop_CL, now_L, real: tl.constexpr, CLASSES: tl.constexpr):
    """Which steeper line first crosses that of `now_L`, at the share lag / rise; none at 1 / 0.

    Quotients are compared by their products: a division costs more and is not exact here.
    """
    own_start_L, own_gain_L = start_CL[0], stop_CL[0] - start_CL[0]
    for c in tl.static_range(1, CLASSES):
        own_L = now_L == c
        own_start_L = tl.where(own_L, start_CL[c], own_start_L)
        own_gain_L = tl.where(own_L, stop_CL[c] - start_CL[c], own_gain_L)
    next_L = now_L
    lag_L, rise_L = tl.full(now_L.shape, 1, real), tl.zeros(now_L.shape, real)
    for c in tl.static_range(CLASSES):
        lag_c_L = own_start_L - start_CL[c]
        rise_c_L = stop_CL[c] - start_CL[c] - own_gain_L
        sooner_L = (rise_c_L > 0) & (lag_c_L * rise_L < lag_L * rise_c_L)
        lag_L = tl.where(sooner_L, lag_c_L, lag_L)
        rise_L = tl.where(sooner_L, rise_c_L, rise_L)
        next_L = tl.where(sooner_L, c, next_L)
    return next_L, lag_L, rise_L


@triton.jit
def _search(share_K, since_L, K, STEPS: tl.constexpr, after_L, lag_L, rise_L):
    """The first candidate from `since_L` on that is beyond the crossing; K if none is.

    One right on it is beyond unless `after_L`: of the two classes that tie the lower wins.
    """
    low_L, high_L = since_L, tl.zeros_like(since_L) + K
    for _ in tl.static_range(STEPS):
        middle_L = (low_L + high_L) // 2
        share_L = tl.load(share_K + middle_L, middle_L < K, 0.0)
        way_L = share_L * rise_L
        before_L = (way_L < lag_L) | (after_L & (way_L == lag_L))
        before_L &= middle_L < high_L
        low_L = tl.where(before_L, middle_L + 1, low_L)
        high_L = tl.where(before_L, high_L, middle_L)
    return low_L


@triton.jit
def _note(at_L, now_L, next_L, changed_L):
    """From here on one pixel fewer of the old winner, one more of the new."""
    tl.atomic_add(at_L + now_L, -1, changed_L, sem="relaxed")
    tl.atomic_add(at_L + next_L, 1, changed_L, sem="relaxed")
