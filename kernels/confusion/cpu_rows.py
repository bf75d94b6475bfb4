"""The inner loops of `cpu.py` and `cpu_blend.py`: mixing rows and counting the pairs of one.

Axes: C class, N pixels, P pairs (truth, prediction), Q interleaved tables.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.cpu import ONE, Array, Bytes, Integers, compiled

TABLES = 4
"""Neighbouring pixels are often of one pair; in four tables they do not wait for one another."""


@compiled
def mix(out: Array, first: Array, second: Array, part: float) -> None:
    """Interpolate between two rows."""
    for i in range(len(out)):
        out[i] = (ONE - part) * first[i] + part * second[i]


@compiled
def new_tables(C: int, N: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """(Q, P) zeros, in which what is no class has a row and a column; scratch for N pixels."""
    return np.zeros((TABLES, (C + 1) ** 2), np.uint32), np.empty(N, np.uint16)


@compiled
def tally(
    table_QP: NDArray[np.uint32], pair_N: NDArray[np.uint16], guess_N: Bytes, label_N: Bytes, C: int
) -> None:
    """Count pairs; `pair_N` is scratch of at least as many pixels."""
    side, beyond = np.uint16(C + 1), np.uint8(C)
    for i in range(len(label_N)):
        truth, guess = min(label_N[i], beyond), min(guess_N[i], beyond)
        pair_N[i] = np.uint16(truth) * side + np.uint16(guess)
    even = len(label_N) // 4 * 4
    for i in range(0, even, 4):
        table_QP[0, pair_N[i]] += 1
        table_QP[1, pair_N[i + 1]] += 1
        table_QP[2, pair_N[i + 2]] += 1
        table_QP[3, pair_N[i + 3]] += 1
    for i in range(even, len(label_N)):
        table_QP[0, pair_N[i]] += 1


@compiled
def add_up(count_CC: Integers, table_QP: NDArray[np.uint32]) -> None:
    """The counts of classes; what was no class is left out."""
    C = len(count_CC)
    for truth in range(C):
        for guess in range(C):
            total = 0
            for q in range(len(table_QP)):
                total += table_QP[q, truth * (C + 1) + guess]
            count_CC[truth, guess] = total
