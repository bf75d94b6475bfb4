"""PNGs of one channel, 8 or 16 bits deep, which hold depth maps and labels.

General libraries undo the filters of their rows a byte at a time, which takes most of their time:
see `benchmarks.throughput --rows decode`.
"""

import deflate
import numpy as np
from numpy.typing import NDArray

from kernels.png.reference import CHUNK_BYTES, MOST_BYTES, SIGNATURE, PngHeader

_START = SIGNATURE + b"\0\0\0\x0dIHDR"
_RESTORED = ("8-bit grey PNG", "8-bit indexed PNG", "16-bit grey PNG")


def decode_png(content: bytes) -> NDArray[np.generic] | None:
    """(H, W) uint8 or uint16 of a whole PNG of one channel; None for all that is left to Pillow."""
    header = PngHeader.of(content)
    if header is None or header.start != _START or any(header.methods) or 0 in header.hw:
        return None
    size = header.height * (1 + header.width * header.bits // 8)
    if header.kind not in _RESTORED or max(size, len(content)) >= MOST_BYTES:
        return None
    try:
        filtered = np.frombuffer(deflate.zlib_decompress(_data(content), size), np.uint8)
    except deflate.DeflateError:
        return None
    # Here, for it loads Numba: a dataset is listed, and its faults are told, without.
    from kernels.png import cpu

    # Every row begins with the number of its filter, so they stand one stride apart.
    filters = filtered[:: size // header.height]
    # Too few bytes, too many, or a filter that PNG does not have: Pillow shall say what is wrong.
    if len(filtered) != size or filters.max() > cpu.LAST_FILTER:
        return None
    pixels_HW = np.empty(header.hw, np.uint8 if header.bits == 8 else np.uint16)
    cpu.undo_filters(filtered.reshape(header.height, -1), pixels_HW)
    return pixels_HW


def _data(content: bytes) -> bytes:
    """What the data chunks hold; empty where Pillow may see a chunk otherwise."""
    view, parts = memoryview(content), list[memoryview]()
    start, before, name = len(SIGNATURE), b"", b""
    while name != b"IEND":
        length = int.from_bytes(view[start : start + 4], "big")
        # A chunk: four bytes of length, four of name, the data, and a CRC over name and data.
        before, name = name, bytes(view[start + 4 : start + 8])
        data, end = start + 8, start + 8 + length
        least, most = CHUNK_BYTES.get(name, (1, 0))
        if not least <= length <= most or end + 4 > len(content):
            return b""
        if deflate.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return b""
        # PNG has one header, and data chunks that follow each other.
        parted = name == b"IDAT" and parts and before != b"IDAT"
        if parted or (name == b"IHDR" and before):
            return b""
        if name == b"IDAT":
            parts.append(view[data:end])
        start = end + 4
    return b"".join(parts)
