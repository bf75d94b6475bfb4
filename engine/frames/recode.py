"""A PNG written anew, with the same pixels, in the form that decodes fastest.

Nothing but the filters of its rows and their compression changes: header, palette, transparency,
EXIF and all other chunks stay, and so does what stands behind the picture.

H: rows. S: bytes of a row.
"""

from typing import NamedTuple

import deflate
import numpy as np

from kernels.png import PngHeader
from kernels.png.reference import SIGNATURE, decode_png

_NONE, _UP = 0, 2
"""Filters that a vector unit undoes: https://www.w3.org/TR/png-3/#9Filter-types."""

_KEPT = ("grey", "indexed", "RGB", "grey + alpha", "RGBA")
_REWRITTEN = {*(f"8-bit {colours} PNG" for colours in _KEPT), "16-bit grey PNG"}
"""What Pillow decodes to the very numbers that are stored: of fewer bits it stretches some."""


class Form(NamedTuple):
    """How the rows of a PNG are stored."""

    filter: int
    """Number of the filter of every row."""
    level: int
    """Of libdeflate's compression, 1 to 12; 0: none."""

    def __str__(self) -> str:
        if not self.level:
            return "not compressed"
        return f"{'filter Up' if self.filter == _UP else 'no filter'}, level {self.level}"


FORMS = (Form(_NONE, 0), Form(_NONE, 9), Form(_UP, 9))
"""Candidates. Level 9 makes few and long matches, which are copied fastest; 12 takes 20 times as
long for a decoder that is no faster, and 1 to 6 leave more to decode."""


def rewritten(content: bytes, form: Form) -> bytes | None:
    """A PNG in another form; None for what is no PNG, is interlaced, or has other bits.

    Raises:
        OSError, SyntaxError, ValueError, EOFError, struct.error: it is broken.
    """
    header = PngHeader.of(content)
    if header is None or any(header.methods) or header.kind not in _REWRITTEN:
        return None
    pixels = decode_png(content)
    if header.bits == 16:
        pixels = pixels.astype(">u2").view(np.uint8)
    rows_HS = pixels.reshape(header.height, -1)
    filtered_HS = np.empty((header.height, 1 + rows_HS.shape[1]), np.uint8)
    filtered_HS[:, 0], filtered_HS[:, 1:] = form.filter, rows_HS
    if form.filter == _UP:
        filtered_HS[1:, 1:] -= rows_HS[:-1]
    return _with_data(content, bytes(deflate.zlib_compress(filtered_HS.tobytes(), form.level)))


def _with_data(content: bytes, data: bytes) -> bytes:
    """A PNG with other data in one chunk, where its first one was."""
    start, name, parts = len(SIGNATURE), b"", [content[: len(SIGNATURE)]]
    while name != b"IEND" and start + 12 <= len(content):
        name = content[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if name != b"IDAT":
            parts.append(content[start:end])
        elif data:
            named, data = name + data, b""
            crc = deflate.crc32(named).to_bytes(4, "big")
            parts += [(len(named) - 4).to_bytes(4, "big"), named, crc]
        start = end
    return b"".join([*parts, content[start:]])
