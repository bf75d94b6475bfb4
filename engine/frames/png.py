"""PNGs of one channel, 8 or 16 bits deep: depth maps and labels.

A row of a PNG holds what a filter left of it. General libraries undo the filters of one and two
bytes a pixel a byte at a time, which takes most of their time. Pillow is the reference: tests
compare the pixels, `benchmarks.throughput --rows decode` the time.
https://www.w3.org/TR/png-3/#9Filters

H: rows. S: bytes of a row.
"""

import struct
from typing import Any, NamedTuple

import deflate
import numba
import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">16sIIBB3s")
_START = _SIGNATURE + b"\0\0\0\x0dIHDR"
# https://www.w3.org/TR/png-3/#3colourType
_COLOURS = {0: "grey", 2: "RGB", 3: "indexed", 4: "grey + alpha", 6: "RGBA"}

_RESTORED = ("8-bit grey PNG", "8-bit indexed PNG", "16-bit grey PNG")
_LAST_FILTER = 4  # Paeth, https://www.w3.org/TR/png-3/#9Filter-types

_MOST_BYTES = 1 << 26  # Pillow warns of or refuses pictures and texts that are larger than that
# Chunks that do not change what Pillow makes of a file, and the lengths that it does not mind.
_LENGTHS = {b"IHDR": (13, 13), b"gAMA": (4, 4), b"pHYs": (9, 9), b"sRGB": (1, 1), b"cHRM": (32, 32)}
_LENGTHS |= {b"PLTE": (0, 768), b"tIME": (7, 7), b"IEND": (0, 0)}
_LENGTHS |= dict.fromkeys((b"IDAT", b"tEXt"), (0, _MOST_BYTES))

_ONE, _TWO = np.uintp(1), np.uintp(2)  # unsigned indices, which Numba need not test for a sign
_RUN_BYTES = 8
"""That are looked at together for whether they repeat the row above."""
_RUN = np.uintp(_RUN_BYTES)

_Bytes = NDArray[np.uint8]
_Value = int | np.signedinteger[Any]


class PngHeader(NamedTuple):
    """What stands at fixed places in every PNG: https://www.w3.org/TR/png-3/#11IHDR."""

    start: bytes
    """Signature, then length and name of the first chunk."""
    width: int
    height: int
    bits: int
    """Of a sample."""
    colour: int
    methods: bytes
    """Of compression, filtering and interlacing; the usual ones are 0."""

    @classmethod
    def of(cls, content: bytes) -> "PngHeader | None":
        """What stands there in a file; None for one without a PNG's signature."""
        if not content.startswith(_SIGNATURE):
            return None
        return cls._make(_HEADER.unpack(content[: _HEADER.size].ljust(_HEADER.size, b"\0")))

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.height, self.width

    @property
    def kind(self) -> str:
        """Depth and colours in words: `16-bit grey PNG`."""
        return f"{self.bits}-bit {_COLOURS.get(self.colour, 'unknown')} PNG"


def decode_png(content: bytes) -> NDArray[np.generic] | None:
    """Decode a PNG of one channel; the values are grey or indices of a palette.

    Returns:
        (H, W) uint8 or uint16; None for anything but such a file, whole, with right checksums.
    """
    header = PngHeader.of(content)
    if header is None or header.start != _START or any(header.methods) or 0 in header.hw:
        return None
    size = header.height * (1 + header.width * header.bits // 8)
    if header.kind not in _RESTORED or max(size, len(content)) >= _MOST_BYTES:
        return None
    try:
        filtered = np.frombuffer(deflate.zlib_decompress(_data(content), size), np.uint8)
    except deflate.DeflateError:
        return None
    # Every row begins with the number of its filter, so they stand one stride apart.
    filters = filtered[:: size // header.height]
    # Too few bytes, too many, or a filter that PNG does not have: Pillow shall say what is wrong.
    if len(filtered) != size or filters.max() > _LAST_FILTER:
        return None
    pixels_HW = np.empty(header.hw, np.uint8 if header.bits == 8 else np.uint16)
    _undo_filters(filtered.reshape(header.height, -1), pixels_HW)
    return pixels_HW


def _data(content: bytes) -> bytes:
    """What the data chunks hold; empty where Pillow may see a chunk otherwise."""
    view, parts = memoryview(content), list[memoryview]()
    start, before, name = len(_SIGNATURE), b"", b""
    while name != b"IEND":
        length = int.from_bytes(view[start : start + 4], "big")
        # A chunk: four bytes of length, four of name, the data, and a CRC over name and data.
        before, name = name, bytes(view[start + 4 : start + 8])
        data, end = start + 8, start + 8 + length
        least, most = _LENGTHS.get(name, (1, 0))
        if not least <= length <= most or end + 4 > len(content):
            return b""
        if deflate.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return b""
        if name == b"IHDR" and before:
            return b""  # a second header
        if name == b"IDAT":
            # PNG has the data chunks follow each other.
            if parts and before != b"IDAT":
                return b""
            parts.append(view[data:end])
        start = end + 4
    return b"".join(parts)


@numba.njit(nogil=True, cache=True)
def _undo_filters(filtered_HS: _Bytes, pixels_HW: NDArray[Any]) -> None:
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
        if kind < _LAST_FILTER:
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
def _plain_row(kind: int, filtered_S: _Bytes, above_S: _Bytes, row_S: _Bytes, step: int) -> None:
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
def _paeth_row_8(filtered_S: _Bytes, above_S: _Bytes, row_S: _Bytes) -> None:
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
def _paeth_row_16(filtered_S: _Bytes, above_S: _Bytes, row_S: _Bytes) -> None:
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
def _repeated(filtered_S: _Bytes, above_S: _Bytes, row_S: _Bytes, start: int) -> bool:
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
