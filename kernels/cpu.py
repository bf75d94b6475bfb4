"""What the Numba kernels of all folders share: how they are compiled, taps, winners, exp and log.

Kernels copy and add arrays in loops. NumPy's way of it, compiled, brings code along that words the
error of shapes that do not fit, and Numba takes up to four seconds to compile that.

Axes: C class, W pixels of a row, w pixels of a row of the source.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import float32, types, uint32
from numba.core import event
from numba.extending import overload
from numpy.typing import NDArray

from kernels.code_cache import keep_code
from kernels.compiling import COMPILING

Array = NDArray[Any]
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]

# Before anything is decorated: all folders import this module first.
COMPILING.how_often = keep_code(Path(__file__).parent)


class _Notices(event.Listener):
    """Numba's notices of what it compiles, and does not find in its cache."""

    def on_start(self, _event: event.Event) -> None:
        COMPILING.begin()

    def on_end(self, _event: event.Event) -> None:
        COMPILING.end()


event.register("numba:compile", _Notices())  # type: ignore[no-untyped-call]

FAST = {"contract"}
"""What fast mathematics may do: fuse a multiplication and an addition. Sums keep their order."""

compiled = numba.njit(cache=True, fastmath=FAST, error_model="numpy")
parallel = numba.njit(cache=True, fastmath=FAST, error_model="numpy", parallel=True)
exact = numba.njit(cache=True, error_model="numpy")
exact_parallel = numba.njit(cache=True, error_model="numpy", parallel=True)
"""These two round every product that is not fused by name."""

ONE = np.float32(1)
"""The number 1 in float32, so that a float32 beside it stays one."""

# exp(x) = 2^k exp(r), |r| <= ln(2) / 2, by the polynomial of Cephes' expf: within 1.01 ulp. Every
# number is a float32, since one float64 would widen the loop. Adding MAGIC = 1.5 2^23 rounds to an
# integer, which then stands in the low bits.
LOG2_E = np.float32(1.4426950408889634)
MAGIC = np.float32(12582912.0)
LN_2_HIGH = np.float32(0.693359375)
LN_2_LOW = np.float32(-2.12194440e-4)
E0, E1, E2 = map(np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3))
E3, E4, E5 = map(np.float32, (4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1))
MANTISSA_BITS = np.int32(23)
BITS_OF_ONE = np.int32(127 << 23)

# log(x) = k ln(2) + log(m), m in [sqrt(1/2), sqrt(2)), by the polynomial of Cephes' logf.
L0, L1, L2 = map(np.float32, (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1))
L3, L4, L5 = map(np.float32, (-1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1))
L6, L7, L8 = map(np.float32, (2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1))
HALF = np.float32(0.5)
BITS_OF_ROOT_HALF = np.int32(0x3F3504F3)


class Taps(NamedTuple):
    """Where a linear interpolation reads: (1 - part) a[first] + part a[second]."""

    first: NDArray[np.uint32]
    second: NDArray[np.uint32]
    part: Array


def typed(kind: type[NamedTuple], *fields: types.Type) -> types.Type:
    """Numba's type of a named tuple, by those of its fields."""
    made: types.Type = types.NamedTuple(fields, kind)  # type: ignore[no-untyped-call]
    return made


TAPS = typed(Taps, uint32[::1], uint32[::1], float32[::1])
"""Of float32."""


def taps(size: int, source: int, dtype: Any, *, align_corners: bool = False) -> Taps:
    """The taps of a resampling from `source` to `size` points, placed as `interpolate` does.

    Positions are ratios of integers, so `part`, of type `dtype`, is within half an ulp.
    """
    at = np.arange(size)
    if align_corners:
        numerator, denominator = at * (source - 1), max(size - 1, 1)
    else:
        numerator, denominator = np.maximum((2 * at + 1) * source - size, 0), 2 * size
    first, rest = np.divmod(numerator, denominator)
    second = np.minimum(first + 1, source - 1)
    part = (rest / denominator).astype(dtype)
    return Taps(first.astype(np.uint32), second.astype(np.uint32), part)


@compiled
def resize_row(out_CW: Array, image_Chw: Array, y: int, down_H: Taps, across_W: Taps) -> None:
    """Write row `y` of a resized image; of equal widths nothing is interpolated along it."""
    (C, W), w = out_CW.shape, image_Chw.shape[2]
    row_Cw = out_CW if w == W else np.empty((C, w), out_CW.dtype)
    above, below, down = down_H.first[y], down_H.second[y], down_H.part[y]
    for c in range(C):
        for x in range(w):
            row_Cw[c, x] = (ONE - down) * image_Chw[c, above, x] + down * image_Chw[c, below, x]
    if w == W:
        return
    first, second, part = across_W
    for c in range(C):
        for x in range(W):
            near, far = row_Cw[c, first[x]], row_Cw[c, second[x]]
            out_CW[c, x] = (ONE - part[x]) * near + part[x] * far


@compiled
def find_winners(winner_W: Array, largest_W: Array, value_CW: Array) -> None:
    """Write the class of the largest value of each pixel, the first of equals, and that value.

    Of longer rows of values only as many pixels are looked at as there are winners to write.
    """
    W = len(winner_W)
    winner_W[:] = 0
    for x in range(W):
        largest_W[x] = value_CW[0, x]
    for c in range(1, value_CW.shape[0]):
        for x in range(W):
            larger = value_CW[c, x] > largest_W[x]
            largest_W[x] = value_CW[c, x] if larger else largest_W[x]
            winner_W[x] = np.int32(c) if larger else winner_W[x]


def exp(x: Any, lowest: Any) -> Any:
    """The exponential of a number that is not positive; NaN stays NaN.

    Compiled, it is `_exp_of`: in float32 a polynomial, of which LLVM can make vectors and where a
    number below `lowest` counts as `lowest` (-87.33654 or more: 2^k stays a normal number), in any
    other type `math.exp`, which cuts nothing off.
    """
    return np.exp(np.maximum(x, lowest))


@overload(exp, jit_options={"fastmath": FAST})
def _exp_of(x: Any, lowest: Any) -> Callable[[Any, Any], Any]:  # noqa: ARG001
    def exp32(x: Any, lowest: Any) -> Any:
        x = lowest if x < lowest else x
        shifted = x * LOG2_E + MAGIC
        k = shifted - MAGIC
        r = x - k * LN_2_HIGH - k * LN_2_LOW
        series = ((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5
        power = np.int32((np.float32(shifted).view(np.int32) << MANTISSA_BITS) + BITS_OF_ONE)
        return power.view(np.float32) * (series * r * r + r + ONE)

    def exp64(x: Any, lowest: Any) -> Any:  # noqa: ARG001
        return math.exp(x)

    return exp32 if x == types.float32 else exp64


def log(x: Any) -> Any:
    """The logarithm of a normal number; compiled, it is `_log_of`, as `exp`."""
    return np.log(x)


@overload(log, jit_options={"fastmath": FAST})
def _log_of(x: Any) -> Callable[[Any], Any]:
    def log32(x: Any) -> Any:
        bits = np.float32(x).view(np.int32)
        # The exponent that leaves a mantissa from sqrt(1/2) to sqrt(2).
        exponent = np.int32((bits - BITS_OF_ROOT_HALF) >> MANTISSA_BITS)
        r = np.int32(bits - np.int32(exponent << MANTISSA_BITS)).view(np.float32) - ONE
        k = np.float32(exponent)
        series = (((L0 * r + L1) * r + L2) * r + L3) * r + L4
        series = (((series * r + L5) * r + L6) * r + L7) * r + L8
        # log(x) = k log 2 + log(1 + r), with log 2 in a short and an exact rest (Cody and Waite).
        square = r * r
        return k * LN_2_HIGH + (r + (series * r * square + k * LN_2_LOW - HALF * square))

    def log64(x: Any) -> Any:
        return math.log(x)

    return log32 if x == types.float32 else log64
