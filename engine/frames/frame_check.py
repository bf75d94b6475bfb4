"""Check the files of one frame by decoding them completely, and count what they hold.

C: number of classes. K: number of kept small-class pixels, at most `MAX_SMALL_PIXELS`.
"""

import hashlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.nyuv2 import IGNORE_INDEX

MAX_SMALL_PIXELS = 256
"""Kept small-class pixels of a frame: enough to centre crops on, a few MB over a whole dataset."""

# What Pillow raises on broken input; anything else is a bug and must surface.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
# Colour types of a PNG header: https://www.w3.org/TR/png-3/#3colourType
_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "indexed", 4: "grey + alpha", 6: "RGBA"}

_IMAGE_EXPECTED = "an 8-bit RGB JPEG or PNG"
_DEPTH_EXPECTED = "a 16-bit grey PNG (millimetres, 0 = missing)"
_LABEL_EXPECTED = f"an 8-bit grey or indexed PNG (class index, {IGNORE_INDEX} = ignore)"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a dataset."""

    file: str
    """Path relative to the dataset's root."""
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}: found {self.found}; expected {self.expected}"


@dataclass(frozen=True)
class FrameFiles:
    """The files of one stem; depth and label may be absent."""

    stem: str
    image: Path | None
    depth: Path | None
    label: Path | None


@dataclass
class FrameReport:
    """What one frame holds; meaningful only while `faults` is empty."""

    hw: tuple[int, int] = (0, 0)
    digests: list[tuple[str, bytes]] = field(default_factory=list)
    """Relative name and SHA-256 of every file read."""
    class_pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(C,) labelled pixels of each class; empty without a label."""
    ignored_pixels: int = 0
    missing_depth: float = float("nan")
    """Share of pixels without depth, 0..1; NaN without a depth map."""
    small_pixels: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    """(K, 2) row and column of pixels of the small classes."""
    faults: list[Fault] = field(default_factory=list)


def check_frame(root: Path, files: FrameFiles, classes: int, small: Sequence[int]) -> FrameReport:
    """Decode every file of a frame; every fault is found, none hides another.

    Args:
        root: dataset folder, which names in faults and digests are relative to.
        files: what exists of the frame.
        classes: labels must be below it or `IGNORE_INDEX`.
        small: class indices whose pixels are kept for class-aware crops.

    Returns:
        A report; nothing decoded outlives the call.
    """
    report = FrameReport()
    image = _read(root, files.image, _IMAGE_EXPECTED, report)
    depth = _read(root, files.depth, _DEPTH_EXPECTED, report)
    label = _read(root, files.label, _LABEL_EXPECTED, report)
    # The image sets the size; where it cannot be read, depth and label still check each other.
    reference: tuple[str, tuple[int, int]] | None = None
    for path, pixels in ((files.image, image), (files.depth, depth), (files.label, label)):
        if path is None or pixels is None:
            continue
        hw = (int(pixels.shape[0]), int(pixels.shape[1]))
        if reference is None:
            reference = (_name(root, path), hw)
        elif hw != reference[1]:
            found, expected = (f"{w} x {h} pixels" for h, w in (hw, reference[1]))
            expected = f"{expected}, the size of {reference[0]}"
            report.faults.append(Fault(_name(root, path), found, expected))
    report.hw = reference[1] if reference else (0, 0)
    if depth is not None:
        report.missing_depth = float(np.mean(depth == 0))
    if files.label is not None and label is not None:
        _count(_name(root, files.label), label, classes, small, report)
    return report


def _count(
    name: str, label: NDArray[Any], classes: int, small: Sequence[int], report: FrameReport
) -> None:
    counts = np.bincount(label.ravel(), minlength=256)
    strays = [value for value in np.flatnonzero(counts) if classes <= value != IGNORE_INDEX]
    if strays:
        shown = ", ".join(str(value) for value in strays[:5]) + (", ..." if strays[5:] else "")
        pixels = int(counts[strays].sum())
        expected = f"0..{classes - 1} or {IGNORE_INDEX}"
        report.faults.append(Fault(name, f"label {shown} in {pixels} pixels", expected))
    report.class_pixels = counts[:classes].astype(np.int64)
    report.ignored_pixels = int(counts[IGNORE_INDEX])
    report.small_pixels = _spread_pixels(label, [index for index in small if counts[index]], small)


def _spread_pixels(
    label: NDArray[Any], present: Sequence[int], small: Sequence[int]
) -> NDArray[np.int32]:
    """(K, 2) pixels of the `present` classes, of each an equal quota, evenly in raster order."""
    quota = MAX_SMALL_PIXELS // max(1, len(small))
    kept = []
    for index in present:
        places = np.flatnonzero(label == index)
        if len(places) > quota:
            places = places[(2 * np.arange(quota) + 1) * len(places) // (2 * quota)]
        kept.append(places)
    flat = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return np.stack(np.divmod(flat, label.shape[1]), axis=1).astype(np.int32)


class _UnfitError(Exception):
    """What was found in a file instead of what is needed."""


def _read(root: Path, path: Path | None, expected: str, report: FrameReport) -> NDArray[Any] | None:
    """Return the pixels of a file; None where it is absent or, with a fault, unfit."""
    if path is None:
        return None
    name = _name(root, path)
    try:
        content = path.read_bytes()
        report.digests.append((name, hashlib.sha256(content).digest()))
        return _decode(content, expected)
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror})"
    except _UnfitError as error:
        found = str(error)
    report.faults.append(Fault(name, found, expected))
    return None


def _decode(content: bytes, expected: str) -> NDArray[Any]:
    if not content:
        raise _UnfitError("an empty file (0 bytes)")
    is_png, is_jpeg = content.startswith(_PNG_SIGNATURE), content.startswith(_JPEG_SIGNATURE)
    if not (is_png or is_jpeg):
        raise _UnfitError(f"a file that is neither PNG nor JPEG (it starts with {content[:8]!r})")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            picture.load()
            mode = picture.mode
            pixels: NDArray[Any] = np.asarray(picture)
    except _UNREADABLE as error:
        kind = "PNG" if is_png else "JPEG"
        raise _UnfitError(f"a broken or truncated {kind} ({error})") from error
    kind = _png_kind(content) if is_png else f"8-bit {'grey' if mode == 'L' else mode} JPEG"
    if kind not in _KINDS[expected]:
        raise _UnfitError(f"{'an' if kind.startswith('8') else 'a'} {kind}")
    end = _PNG_END if is_png else _JPEG_END
    if not content.endswith(end):
        after = len(content) - content.rfind(end) - len(end)
        found = f"{after} bytes after the end of the picture" if end in content else "no end marker"
        raise _UnfitError(found)
    return pixels


def _png_kind(content: bytes) -> str:
    # Pillow's modes hide the bit depth (a 16-bit RGB PNG opens as 8-bit), so the header is read.
    bits, colour = content[24], content[25]
    return f"{bits}-bit {_PNG_COLOURS.get(colour, 'unknown')} PNG"


_KINDS = {
    _IMAGE_EXPECTED: ("8-bit RGB JPEG", "8-bit RGB PNG"),
    _DEPTH_EXPECTED: ("16-bit grey PNG",),
    _LABEL_EXPECTED: ("8-bit grey PNG", "8-bit indexed PNG"),
}


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
