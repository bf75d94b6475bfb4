"""The inner loops of `cpu.py` and `cpu_blend.py`: resampling, winners and counting of one row.

Axes: C class, W pixels of a row, w pixels of a row of the source, N pixels, P pairs (truth,
prediction), Q interleaved tables.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

TABLES = 4
"""Neighbouring pixels are often of one pair; in four tables they do not wait for one another."""

ONE = np.float32(1)

Array = NDArray[Any]

# Contraction to fused multiply-adds is the only liberty: sums keep their order.
compiled = numba.njit(cache=True, fastmath={"contract"}, error_model="numpy")
parallel = numba.njit(cache=True, fastmath={"contract"}, error_model="numpy", parallel=True)


class Taps(NamedTuple):
    """Where a linear interpolation reads: (1 - part) a[first] + part a[second]."""

    first: NDArray[np.uint32]
    second: NDArray[np.uint32]
    part: Array


def taps(size: int, source: int, dtype: np.dtype[Any]) -> Taps:
    """The taps of a resampling from `source` to `size` points, pixel centres aligned.

    Positions are ratios of integers, so `part` is within half an ulp.
    """
    numerator = np.maximum((2 * np.arange(size) + 1) * source - size, 0)
    first, rest = np.divmod(numerator, 2 * size)
    second = np.minimum(first + 1, source - 1)
    part = (rest / (2 * size)).astype(dtype)
    return Taps(first.astype(np.uint32), second.astype(np.uint32), part)


@compiled
def mix(out: Array, first: Array, second: Array, part: float) -> None:
    """Interpolate between two rows."""
    for i in range(len(out)):
        out[i] = (ONE - part) * first[i] + part * second[i]


@compiled
def widen(
    wide_CW: Array,
    row_Cw: Array,
    first: NDArray[np.uint32],
    second: NDArray[np.uint32],
    part: Array,
) -> None:
    """Interpolate along a row."""
    for c in range(wide_CW.shape[0]):
        for x in range(wide_CW.shape[1]):
            near, far = row_Cw[c, first[x]], row_Cw[c, second[x]]
            wide_CW[c, x] = (ONE - part[x]) * near + part[x] * far


@compiled
def winners(winner_W: NDArray[np.int32], largest_W: Array, value_CW: Array) -> None:
    """The class of the largest value of each pixel, the first of equals."""
    winner_W[:] = 0
    largest_W[:] = value_CW[0]
    for c in range(1, value_CW.shape[0]):
        for x in range(value_CW.shape[1]):
            larger = value_CW[c, x] > largest_W[x]
            largest_W[x] = value_CW[c, x] if larger else largest_W[x]
            winner_W[x] = np.int32(c) if larger else winner_W[x]


@compiled
def pairs(
    pair_N: NDArray[np.uint16],
    prediction_N: NDArray[np.uint8],
    label_N: NDArray[np.uint8],
    C: int,
) -> None:
    """Write truth (C + 1) + prediction; what is no class becomes C, a row or column of its own."""
    side, beyond = np.uint16(C + 1), np.uint8(C)
    for i in range(len(label_N)):
        truth, guess = min(label_N[i], beyond), min(prediction_N[i], beyond)
        pair_N[i] = np.uint16(truth) * side + np.uint16(guess)


@compiled
def tally(table_QP: NDArray[np.uint32], pair_N: NDArray[np.uint16]) -> None:
    """Count pairs."""
    even = len(pair_N) // 4 * 4
    for i in range(0, even, 4):
        table_QP[0, pair_N[i]] += 1
        table_QP[1, pair_N[i + 1]] += 1
        table_QP[2, pair_N[i + 2]] += 1
        table_QP[3, pair_N[i + 3]] += 1
    for i in range(even, len(pair_N)):
        table_QP[0, pair_N[i]] += 1


@compiled
def add_up(count_CC: NDArray[np.int64], table_QP: NDArray[np.uint32]) -> None:
    """The counts of classes; what was no class is left out."""
    C = len(count_CC)
    for truth in range(C):
        for guess in range(C):
            total = 0
            for q in range(len(table_QP)):
                total += table_QP[q, truth * (C + 1) + guess]
            count_CC[truth, guess] = total
