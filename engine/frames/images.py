"""An image file becomes 8-bit RGB: JPEGs by simplejpeg, quicker than Pillow, all else by Pillow.

What the pixels went through on the way (`Origin`) is told by whoever asked for them.
"""

import io
import re
import struct
from contextlib import suppress

import numpy as np
import PIL
import simplejpeg
from deflate import crc32
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from engine.frames import faults
from engine.frames.kinds import PLAIN, Origin, UnfitError
from kernels.png import PngHeader

DECODERS = f"simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__}"
"""What decodes JPEGs; another release may round in its own way."""

BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError),
    *(KeyError, IndexError, TypeError, OverflowError),
)
"""What Pillow raises on broken input: a broken PNG is a SyntaxError, and broken tables of tags may
be any of the second row. Anything else is a bug."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_JPEG_END, _PNG_END = b"\xff\xd9", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_COLOURS = {"1": "grey", "L": "grey", "P": "indexed", "LA": "grey + alpha", "PA": "indexed + alpha"}
_COLOURS |= {"RGBa": "RGBA", "RGBX": "RGB", "I": "integer grey", "F": "float grey"}
# What Pillow turns into RGB without asking how: not numbers without a scale, nor CIE Lab.
_CONVERTED = {"1", "L", "P", "PA", "La", "LA", "RGB", "RGBX", "RGBa", "RGBA", "CMYK", "YCbCr"}
# https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
_TIFF_BITS, _TIFF_GREY, _WHITE_IS_ZERO = 258, 262, 0


def decode_image(content: bytes, *, turn: bool) -> tuple[NDArray[np.uint8], Origin]:
    """(H, W, 3) RGB of a JPEG, PNG, TIFF, BMP or WebP file, of any colours; the first of several.

    Grey, indexed, CMYK and YCbCr colours become RGB, 16 bits become 8 (a grey of v is v / 257,
    rounded), and alpha is dropped: the colours stay what they are where a pixel is transparent.

    Args:
        content: of the file.
        turn: whether a picture that carries an EXIF orientation is turned upright.

    Raises:
        UnfitError: it is no such file, is broken or truncated, or its numbers have no scale.
    """
    check_chunks(content)
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
            return _decode(opened, content, turn)
    except BROKEN as error:
        raise UnfitError(faults.unreadable(content, error)) from error


def encoding(opened: ImageFile.ImageFile, header: PngHeader | None) -> str:
    """Depth, colours and format of a file that Pillow opened, in words: `8-bit grey JPEG`."""
    # Pillow's modes hide the bit depth (a 16-bit RGB PNG opens as 8-bit), so the header says it.
    if header is not None:
        return header.kind
    mode, bits = opened.mode, 8
    if opened.format == "TIFF":
        bits = max(opened.tag_v2.get(_TIFF_BITS, (1,)))  # type: ignore[attr-defined]
    elif mode == "1":
        bits = 1
    colours = "grey" if mode.startswith("I;16") else _COLOURS.get(mode, mode)
    # Stereo pictures and those of telephones are JPEGs behind each other.
    kind = {"MPO": "JPEG", "WEBP": "WebP"}.get(opened.format or "", opened.format)
    return f"{bits}-bit {colours} {kind}"


def bytes_after(content: bytes, header: PngHeader | None) -> int:
    """Bytes behind a PNG, if it has a header, or a JPEG; UnfitError if that has no end."""
    end = _PNG_END if header else _JPEG_END
    if content.endswith(end):
        return 0
    found = _png_end(content) if header else _jpeg_end(content)
    if found < 0:
        raise UnfitError(f"a truncated {'PNG' if header else 'JPEG'} (no end marker)")
    return len(content) - found


def check_chunks(content: bytes) -> None:
    """Hold a PNG's pixels, palette and head to their checksums, of which Pillow asks none.

    Anything else passes, and what is missing at its end. Raises UnfitError.
    """
    view, place = memoryview(content), 8  # behind the signature
    if PngHeader.of(content) is None:
        return
    while place + 12 <= len(content):
        name, end = content[place + 4 : place + 8], place + 8
        end += int.from_bytes(content[place : place + 4], "big")
        # A small first letter is that of a chunk which pictures can do without.
        told = int.from_bytes(content[end : end + 4], "big")
        if name[:1].isupper() and end + 4 <= len(content) and crc32(view[place + 4 : end]) != told:
            chunk = name.decode("ascii", "backslashreplace")
            raise UnfitError(f"a damaged PNG ({chunk} at byte {place} is not what was written)")
        if name == b"IEND":
            return
        place = end + 4


def _decode(
    opened: ImageFile.ImageFile, content: bytes, turn: bool
) -> tuple[NDArray[np.uint8], Origin]:
    header, told = PngHeader.of(content), []
    if opened.format == "PNG":
        # Asked for its EXIF, Pillow decodes a PNG, once: whoever asks again gets what it had then.
        opened.load()
    found, pictures = encoding(opened, header), getattr(opened, "n_frames", 1)
    orientation = _orientation(opened)
    image_HW3 = _decode_jpeg(content, opened.size) if found == "8-bit RGB JPEG" else None
    if image_HW3 is None:
        # A copy: torch refuses read-only memory.
        image_HW3 = np.array(opened) if found in PLAIN else _converted(opened, found)
        if opened.format == "TIFF" and orientation > 1:
            # Pillow has turned it already, as it does with no other format.
            image_HW3 = turned(image_HW3, {6: 8, 8: 6}.get(orientation, orientation))
    if pictures > 1:
        told.append("of which only the first picture of several is read")
    if opened.format in ("PNG", "JPEG", "MPO") and bytes_after(content, header):
        told.append("with bytes after the end of the picture, which are passed over")
    if orientation > 1 and not turn:
        told.append("with an EXIF orientation, which data.exif = 'ignore' passes over")
    orientation = orientation if turn else 1
    source = "" if found in PLAIN else found
    return turned(image_HW3, orientation), Origin(source, orientation, tuple(told))


def turned(image_HW3: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """An image upright that was stored with an EXIF orientation of 1 to 8: 1 is upright."""
    if orientation in (5, 6, 7, 8):  # stored on its side
        image_HW3 = image_HW3.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image_HW3[::rows, ::columns])


def _orientation(opened: ImageFile.ImageFile) -> int:
    """1 to 8, as EXIF or XMP say; 1 where they say nothing, or nothing that can be read."""
    with suppress(*BROKEN):
        value = opened.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in range(1, 9) else 1
    return 1


def _decode_jpeg(content: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """(H, W, 3); None where something is odd: simplejpeg refuses what libjpeg only warns of."""
    with suppress(ValueError):
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if (width, height) == size and colours == "YCbCr":
            image_HW3: NDArray[np.uint8] = simplejpeg.decode_jpeg(content)
            return image_HW3
    return None


def _converted(opened: ImageFile.ImageFile, found: str) -> NDArray[np.uint8]:
    if opened.mode.startswith("I;16"):
        return _grey_to_rgb(opened, int(found.partition("-")[0]))
    if opened.mode not in _CONVERTED:
        raise UnfitError(f"a {found}, whose numbers have no one scale")
    # Colours that stand for "transparent" are colours too; Pillow would warn of some.
    opened.load()
    opened.info.pop("transparency", None)
    image: Image.Image = opened
    if opened.mode in ("RGBa", "La", "PA"):
        image = opened.convert("LA" if opened.mode == "La" else "RGBA")
    return np.array(image.convert("RGB"))


def _grey_to_rgb(opened: ImageFile.ImageFile, bits: int) -> NDArray[np.uint8]:
    most = (1 << bits) - 1
    grey_HW = np.asarray(opened).astype(np.uint32)
    grey_HW = ((grey_HW * 255 + most // 2) // most).astype(np.uint8)
    if opened.format == "TIFF":
        tags = opened.tag_v2  # type: ignore[attr-defined]
        # Pillow inverts 8 bits only.
        grey_HW = 255 - grey_HW if tags.get(_TIFF_GREY) == _WHITE_IS_ZERO else grey_HW
    return np.repeat(grey_HW[..., None], 3, axis=2)


def _png_end(content: bytes) -> int:
    """Where the end chunk of a PNG ends; -1 if there is none."""
    place = 8  # behind the signature
    while place + 12 <= len(content):
        name = content[place + 4 : place + 8]
        place += 12 + int.from_bytes(content[place : place + 4], "big")
        if name == b"IEND":
            return place if content[:place].endswith(_PNG_END) else -1
    return -1


def _jpeg_end(content: bytes) -> int:
    """Where the end marker of a JPEG ends; -1 if there is none.

    Not the first one in the file, which may be that of a thumbnail inside a segment.
    """
    place, marker = 2, re.compile(rb"\xff[^\x00\xff]")
    while match := marker.search(content, place):
        code, place = content[match.end() - 1], match.end()
        if code == _JPEG_END[1]:
            return place
        if code == 0xD8:  # another picture begins before this one ends
            return -1
        # What has no length: https://www.w3.org/Graphics/JPEG/itu-t81.pdf, table B.1.
        if code != 0x01 and code not in range(0xD0, 0xD8):
            place += int.from_bytes(content[place : place + 2], "big")
    return -1
