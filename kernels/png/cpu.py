"""The row filters of a PNG undone on the CPU: https://www.w3.org/TR/png-3/#9Filters.

H: rows. S: bytes of a row.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.cpu import Bytes

LAST_FILTER = 4
"""Paeth, the last one that PNG has: https://www.w3.org/TR/png-3/#9Filter-types."""

_ONE, _TWO = np.uintp(1), np.uintp(2)  # unsigned indices, which Numba need not test for a sign
_RUN_BYTES = 8
"""That are looked at together for whether they repeat the row above."""
_RUN = np.uintp(_RUN_BYTES)

_Value = int | np.signedinteger[Any]


@numba.njit(nogil=True, cache=True)
def undo_filters(filtered_HS: Bytes, pixels_HW: NDArray[Any]) -> None:
    """Restore pixels of 8 or 16 bits.

    Args:
        filtered_HS: (H, 1 + S), each row after the number of its filter; high bytes first.
        pixels_HW: (H, W), written.
    """
    size = filtered_HS.shape[1] - 1
    step = size // pixels_HW.shape[1]
    # In whole runs: what lies behind the end of a row is never used. Slices are assigned by loops,
    # which LLVM vectorises: Numba's own way takes five times as long.
    padded = -(-size // _RUN_BYTES) * _RUN_BYTES
    filtered_S = np.zeros(padded, np.uint8)
    above_S, row_S = np.zeros_like(filtered_S), np.zeros_like(filtered_S)
    for y in range(len(filtered_HS)):
        for x in range(size):
            filtered_S[x] = filtered_HS[y, 1 + x]
        kind = filtered_HS[y, 0]
        if kind < LAST_FILTER:
            _plain_row(kind, filtered_S, above_S, row_S, step)
        elif step == 1:
            _paeth_row_8(filtered_S, above_S, row_S)
        else:
            _paeth_row_16(filtered_S, above_S, row_S)
        if step == 1:
            for x in range(size):
                pixels_HW[y, x] = row_S[x]
        else:
            for x in range(size // 2):
                pixels_HW[y, x] = row_S[2 * x] * 256 + row_S[2 * x + 1]
        above_S, row_S = row_S, above_S


@numba.njit(cache=True)
def _plain_row(kind: int, filtered_S: Bytes, above_S: Bytes, row_S: Bytes, step: int) -> None:
    """The filters None, Sub, Up and Average, by their numbers."""
    size = len(row_S)
    if kind == 0:
        for x in range(size):
            row_S[x] = filtered_S[x]
    elif kind == 2:
        for x in range(size):
            row_S[x] = filtered_S[x] + above_S[x]
    else:
        for x in range(size):
            left = np.int32(row_S[x - step]) if x >= step else np.int32(0)
            row_S[x] = filtered_S[x] + (left if kind == 1 else (left + above_S[x]) >> 1)


@numba.njit(cache=True)
def _paeth_row_8(filtered_S: Bytes, above_S: Bytes, row_S: Bytes) -> None:
    left = corner = np.int32(0)
    # Each byte waits for the one before, which no vector unit can help; but depth maps and labels
    # repeat the row above for long stretches, and those are found and copied a run at a time.
    for start in range(np.uintp(0), np.uintp(len(row_S)), _RUN):
        if left == corner and _repeated(filtered_S, above_S, row_S, start):
            continue
        for n in range(_RUN):
            x = start + n
            above = np.int32(above_S[x])
            left = (filtered_S[x] + _paeth(left, above, corner)) & np.int32(255)
            row_S[x], corner = left, above


@numba.njit(cache=True)
def _paeth_row_16(filtered_S: Bytes, above_S: Bytes, row_S: Bytes) -> None:
    # Both bytes of a pixel at a time: each waits for its own left neighbour only.
    left_0 = left_1 = corner_0 = corner_1 = np.int32(0)
    for start in range(np.uintp(0), np.uintp(len(row_S)), _RUN):
        same = left_0 == corner_0 and left_1 == corner_1
        if same and _repeated(filtered_S, above_S, row_S, start):
            continue
        for n in range(_RUN // _TWO):
            x = start + _TWO * n
            above_0, above_1 = np.int32(above_S[x]), np.int32(above_S[x + _ONE])
            if left_0 == corner_0:  # as nearly always, for the high byte
                left_0 = (filtered_S[x] + above_0) & np.int32(255)
            else:
                left_0 = (filtered_S[x] + _paeth(left_0, above_0, corner_0)) & np.int32(255)
            left_1 = (filtered_S[x + _ONE] + _paeth(left_1, above_1, corner_1)) & np.int32(255)
            row_S[x], row_S[x + _ONE] = left_0, left_1
            corner_0, corner_1 = above_0, above_1


@numba.njit(cache=True)
def _repeated(filtered_S: Bytes, above_S: Bytes, row_S: Bytes, start: int) -> bool:
    """Copy a run from above if it is the same there, given that `left` is `corner`.

    The estimate is then `above`, whatever the two are; where nothing is added to it, they are equal
    again for the next byte.
    """
    bits = np.uint8(0)
    for n in range(_RUN):
        bits |= filtered_S[start + n]
    if bits != 0:
        return False
    for n in range(_RUN):
        row_S[start + n] = above_S[start + n]
    return True


@numba.njit(cache=True)
def _paeth(left: _Value, above: _Value, corner: _Value) -> _Value:
    """That of the three which is nearest to left + above - corner; the first of equals.

    Written without the distances, and so that `left`, which comes last, is waited for briefly.
    """
    # With p = left + above - corner the distances are |above - corner|, |left - corner| and |left +
    # above - 2 corner|. Which is least follows from where `turn` lies: not between the smaller and
    # the larger of left and above, one of them is nearest; between, the corner is.
    turn = 3 * corner - above - left
    low, high = min(left, above), max(left, above)
    return high if turn <= low else low if high <= turn else corner
