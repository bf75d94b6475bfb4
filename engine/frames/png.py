"""PNGs of one channel, 8 or 16 bits deep: depth maps and labels.

A row of a PNG holds what a filter left of it. General libraries undo the filters of one and two
bytes a pixel a byte at a time, which takes most of their time. Pillow is the reference: tests
compare the pixels, `benchmarks.throughput --rows decode` the time.
https://www.w3.org/TR/png-3/#9Filters

H: rows. S: bytes of a row.
"""

import struct
from typing import Any

import deflate
import numba
import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _INDEXED = 0, 3

_ONE, _TWO = np.uintp(1), np.uintp(2)  # unsigned indices, which Numba need not test for a sign
_RUN_BYTES = 8
"""That are looked at together for whether they repeat the row above."""
_RUN = np.uintp(_RUN_BYTES)

_Bytes = NDArray[np.uint8]
_Index = int | np.unsignedinteger[Any]
_Value = int | np.signedinteger[Any]


def decode_png(content: bytes, hw: tuple[int, int], bits: int) -> NDArray[np.generic] | None:
    """Decode a PNG of one channel; the values are grey or indices of a palette.

    Args:
        content: of the file.
        hw: height and width that it must have.
        bits: of a pixel, that it must have: 8 or 16.

    Returns:
        (H, W) uint8 or uint16; None for anything but such a file, whole.
    """
    found = struct.unpack_from(">8sI4sIIBBBBB", content) if len(content) > 32 else None
    if found is None or found[:3] != (_SIGNATURE, 13, b"IHDR") or found[3:5] != hw[::-1]:
        return None
    found_bits, colour, *methods = found[5:]
    if found_bits != bits or colour not in ((_GREY, _INDEXED) if bits == 8 else (_GREY,)):
        return None
    if any(methods):  # the last one: interlaced
        return None
    height, width = hw
    filtered = _inflate(content, height * (1 + width * bits // 8))
    if filtered is None:
        return None
    pixels_HW = np.empty(hw, np.uint8 if bits == 8 else np.uint16)
    return pixels_HW if _undo_filters(filtered.reshape(height, -1), pixels_HW) else None


def _inflate(content: bytes, size: int) -> _Bytes | None:
    """What the file's data chunks hold; None if it is torn or of another size."""
    parts, start = [], 33  # after the header
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] == b"IDAT":
            parts.append(content[start + 8 : start + 8 + length])
        start += 12 + length
    try:
        inflated = deflate.zlib_decompress(b"".join(parts), size)
    except deflate.DeflateError:
        return None
    return np.frombuffer(inflated, np.uint8) if len(inflated) == size else None


@numba.njit(nogil=True, cache=True)
def _undo_filters(filtered_HS: _Bytes, pixels_HW: NDArray[Any]) -> bool:
    """Restore pixels of 8 or 16 bits; False if a row names no filter.

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
        if kind > 4:
            return False
        if kind < 4:
            _plain_row(kind, filtered_S, above_S, row_S, size, step)
        elif step == 1:
            _paeth_row_8(filtered_S, above_S, row_S)
        else:
            _paeth_row_16(filtered_S, above_S, row_S)
        _publish(row_S, pixels_HW[y])
        above_S, row_S = row_S, above_S
    return True


@numba.njit(cache=True)
def _plain_row(
    kind: int, filtered_S: _Bytes, above_S: _Bytes, row_S: _Bytes, size: int, step: int
) -> None:
    """The filters None, Sub, Up and Average, by their numbers."""
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
def _publish(row_S: _Bytes, pixels_W: NDArray[Any]) -> None:
    """A row's bytes to pixels."""
    if pixels_W.itemsize == 1:
        for x in range(len(pixels_W)):
            pixels_W[x] = row_S[x]
    else:
        for x in range(len(pixels_W)):
            pixels_W[x] = row_S[2 * x] * 256 + row_S[2 * x + 1]


@numba.njit(cache=True)
def _paeth_row_8(filtered_S: _Bytes, above_S: _Bytes, row_S: _Bytes) -> None:
    left = corner = np.int32(0)
    for start in range(np.uintp(0), np.uintp(len(row_S)), _RUN):
        if left == corner and _repeats(filtered_S, start):
            _copy(above_S, row_S, start)
            continue
        for n in range(_RUN):
            x = start + n
            above = np.int32(above_S[x])
            left = (filtered_S[x] + _paeth(left, above, corner)) & np.int32(255)
            row_S[x], corner = left, above


@numba.njit(cache=True)
def _paeth_row_16(filtered_S: _Bytes, above_S: _Bytes, row_S: _Bytes) -> None:
    # Both bytes of a pixel at a time: each waits for its own left neighbour only.
    left_0 = left_1 = corner_0 = corner_1 = np.int32(0)
    for start in range(np.uintp(0), np.uintp(len(row_S)), _RUN):
        if left_0 == corner_0 and left_1 == corner_1 and _repeats(filtered_S, start):
            _copy(above_S, row_S, start)
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
def _repeats(filtered_S: _Bytes, start: _Index) -> Any:
    """Whether the bytes of a run are those above, given that `left` is `corner`.

    The estimate is then `above`, whatever the two are; where nothing is added to it, they are equal
    again for the next byte.
    """
    bits = np.uint8(0)
    for n in range(_RUN):
        bits |= filtered_S[start + n]
    return bits == 0


@numba.njit(cache=True)
def _copy(above_S: _Bytes, row_S: _Bytes, start: _Index) -> None:
    for n in range(_RUN):
        row_S[start + n] = above_S[start + n]


@numba.njit(cache=True)
def _paeth(left: _Value, above: _Value, corner: _Value) -> _Value:
    """That of the three which is nearest to left + above - corner; the first of equals.

    Written without the distances, and so that `left`, which comes last, is waited for briefly.
    """
    turn = 3 * corner - above - left
    low, high = min(left, above), max(left, above)
    return high if turn <= low else low if high <= turn else corner
