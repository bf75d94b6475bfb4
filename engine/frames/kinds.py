"""What the files of a frame must be, and what a check finds in them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from engine.nyuv2 import IGNORE_INDEX


class FileKind(NamedTuple):
    """What a file of a frame must be."""

    suffixes: tuple[str, ...]
    expected: str
    found: tuple[str, ...]
    """The encodings that are what is expected."""
    pixel_bytes: int
    """Of a decoded pixel."""


_IMAGE, _DEPTH = "an 8-bit RGB JPEG or PNG", "a 16-bit grey PNG (millimetres, 0 = missing)"
_LABEL = f"an 8-bit grey or indexed PNG (class index, {IGNORE_INDEX} = ignore)"
KINDS = {
    "image": FileKind((".jpg", ".jpeg", ".png"), _IMAGE, ("8-bit RGB JPEG", "8-bit RGB PNG"), 3),
    "depth": FileKind((".png",), _DEPTH, ("16-bit grey PNG",), 2),
    "label": FileKind((".png",), _LABEL, ("8-bit grey PNG", "8-bit indexed PNG"), 1),
}
"""The files of a frame, in the order of `Frame`."""


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
    """Relative name and SHA-256, in hexadecimal, of every file."""
    class_pixels: list[int] = field(default_factory=list)
    """C counts of labelled pixels; empty without a label."""
    ignored_pixels: int = 0
    missing_depth: float | None = None
    """Share of pixels without depth, 0..1; None without a depth map."""
    small_pixels: list[int] = field(default_factory=list)
    """2 K numbers: row and column of one pixel of the small classes after another."""
    thumbnail: str = ""
    """See `engine.frames.thumbnail`; empty without a label: only training frames are compared."""
    faults: list[Fault] = field(default_factory=list)


class UnfitError(Exception):
    """What was found in a file instead of what is needed."""
