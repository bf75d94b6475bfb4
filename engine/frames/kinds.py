"""What the files of a frame must be, and what a check finds in them."""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.frames.depth import DepthSpread
from engine.nyuv2 import IGNORE_INDEX


class FileKind(NamedTuple):
    """What a file of a frame must be."""

    suffixes: tuple[str, ...]
    expected: str
    found: tuple[str, ...]
    """The encodings that are what is expected; images of others are converted."""
    pixel_bytes: int
    """Of a decoded pixel."""


PLAIN = ("8-bit RGB JPEG", "8-bit RGB PNG")
"""Images whose pixels are used as they are."""

_IMAGE = "a JPEG, PNG, TIFF, BMP or WebP"
_DEPTH = "a 16-bit grey PNG or TIFF (millimetres, 0 = missing)"
_LABEL = f"a grey or indexed PNG (class index, {IGNORE_INDEX} = ignore)"
_LABELS = tuple(f"{bits}-bit {kind} PNG" for kind in ("grey", "indexed") for bits in (8, 4, 2, 1))
_MAPS = (".png", ".tif", ".tiff")
KINDS = {
    "image": FileKind((".jpg", ".jpeg", ".bmp", ".webp", *_MAPS), _IMAGE, PLAIN, 3),
    "depth": FileKind(_MAPS, _DEPTH, ("16-bit grey PNG", "16-bit grey TIFF"), 2),
    "label": FileKind((".png",), _LABEL, (*_LABELS, "16-bit grey PNG"), 1),
}
"""The files of a frame, in the order of `Frame`."""


@dataclass(frozen=True)
class Origin:
    """What the pixels of an image went through on the way from its file."""

    source: str = ""
    """What was made 8-bit RGB, in words (`8-bit grey JPEG`); empty for one of `PLAIN`."""
    orientation: int = 1
    """The EXIF orientation that it was turned upright from, 2 to 8; 1: it was not turned."""
    told: tuple[str, ...] = ()
    """What else to tell of the file; changes no pixel."""

    @property
    def is_plain(self) -> bool:
        """Whether every decoder of RGB JPEGs and PNGs gives these pixels."""
        return not self.source and self.orientation == 1

    def digest(self, content: bytes) -> str:
        """SHA-256, in hexadecimal, over a file that is read so; of a plain one, over its bytes."""
        digest = hashlib.sha256(content)
        if not self.is_plain:
            digest.update(f"\0{self.source}\0{self.orientation}".encode())
        return digest.hexdigest()


AS_IT_IS = Origin()
"""Of an 8-bit RGB JPEG or PNG, and of depth maps and labels."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a dataset."""

    file: str
    """Path relative to the dataset's root."""
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}: found {self.found}; expected {self.expected}"


@dataclass
class FrameReport:
    """What one frame holds, in types that a file can keep; meaningful while `faults` is empty."""

    hw: tuple[int, int] = (0, 0)
    digests: list[tuple[str, str]] = field(default_factory=list)
    """Relative name of every file, and SHA-256, in hexadecimal, of what its pixels depend on."""
    origin: Origin = AS_IT_IS
    """Of the image."""
    class_pixels: list[int] = field(default_factory=list)
    """C counts of labelled pixels; empty without a label."""
    ignored_pixels: int = 0
    missing_depth: float | None = None
    """Share of pixels without depth, 0..1; None without a depth map."""
    small_pixels: list[int] = field(default_factory=list)
    """2 K numbers: row and column of one pixel of the small classes after another."""
    depth: DepthSpread | None = None
    """Of the depth map's values; None without one."""
    stray_labels: list[int] = field(default_factory=list)
    """Values of the label that are no classes: there is a fault for them."""
    thumbnail: str = ""
    """See `engine.frames.thumbnail`; empty without a label: only training frames are compared."""
    faults: list[Fault] = field(default_factory=list)


_SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle", "__macosx"}
_SYSTEM |= {"$recycle.bin", "system volume information", "lost+found"}


def is_hidden(name: str) -> bool:
    """Whether a file is a system's own: what Finder, Explorer, a NAS or an editor leaves behind."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM


class UnfitError(Exception):
    """What was found in a file instead of what is needed."""
