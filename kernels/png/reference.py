"""What stands in a PNG, as Pillow decodes it."""

import io
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""What every PNG begins with: https://www.w3.org/TR/png-3/#3PNGsignature."""

MOST_BYTES = 1 << 26
"""Pillow warns of or refuses pictures and texts that are larger than that."""

CHUNK_BYTES = {b"IHDR": (13, 13), b"gAMA": (4, 4), b"pHYs": (9, 9), b"sRGB": (1, 1)}
CHUNK_BYTES |= {b"cHRM": (32, 32), b"PLTE": (0, 768), b"tIME": (7, 7), b"IEND": (0, 0)}
CHUNK_BYTES |= dict.fromkeys((b"IDAT", b"tEXt"), (0, MOST_BYTES))
"""Chunks that do not change what Pillow makes of a file, and the lengths that it does not mind."""

_HEADER = struct.Struct(">16sIIBB3s")
# https://www.w3.org/TR/png-3/#3colourType
_COLOURS = {0: "grey", 2: "RGB", 3: "indexed", 4: "grey + alpha", 6: "RGBA"}


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
        if not content.startswith(SIGNATURE):
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


def decode_png(content: bytes) -> NDArray[Any]:
    """The values of a PNG, (H, W) or (H, W, channels); indices where it has a palette.

    Raises:
        OSError, SyntaxError, ValueError, EOFError, struct.error: it is broken.
    """
    with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
        return np.array(opened)
