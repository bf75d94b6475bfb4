"""One frame from its files: decoded whole and unchanged, judged, counted.

PNGs of one channel are decoded by `kernels.png` and JPEGs, whose head Pillow has looked at, by
simplejpeg: quicker than Pillow and with the same pixels. Pillow decodes what they do not.
"""

import hashlib
import io
import os
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from engine.frames import faults
from engine.frames.kinds import KINDS, Fault, FileKind, FrameReport, UnfitError
from engine.frames.thumbnail import thumbnail
from engine.nyuv2 import IGNORE_INDEX
from kernels.png import PngHeader, decode_png

DECODERS = f"simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__}"
"""What decodes JPEGs; another release may round in its own way."""

MAX_SMALL_PIXELS = 256
"""Kept small-class pixels of a frame: enough to centre crops on, a few MB over a whole dataset."""

_AHEAD = 16  # frames that are asked for before they are needed
_JPEG_END, _PNG_END = b"\xff\xd9", b"\x00\x00\x00\x00IEND\xaeB`\x82"

# What Pillow raises on broken input (a broken PNG is a SyntaxError); anything else is a bug.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class FrameFiles:
    """The files of one stem; any of them may be absent."""

    stem: str
    image: Path | None
    depth: Path | None
    label: Path | None

    @property
    def present(self) -> dict[str, Path]:
        """Those that are there, by kind."""
        return {kind: path for kind in KINDS if (path := getattr(self, kind)) is not None}


@dataclass(frozen=True)
class Sample(FrameFiles):
    """One frame on disk that was found sound."""

    image: Path
    hw: tuple[int, int]
    """Height and width of its files, pixels (as stored: EXIF rotation is ignored)."""
    scene: str | None
    """From scenes.csv; None where that has no line for the stem."""
    digest: str = ""
    """SHA-256 over the content of its files; empty where nobody has read them all."""


class Frame(NamedTuple):
    """The decoded files of one sample."""

    image_HW3: NDArray[np.uint8]
    """RGB."""
    depth_HW: NDArray[np.uint16] | None
    """Millimetres, 0 = missing; None without a file."""
    label_HW: NDArray[np.uint8] | None
    """255 = ignore; None without a file."""

    def contents(self) -> dict[str, NDArray[np.uint8]]:
        """The bytes of its parts by kind."""
        parts = zip(KINDS, self, strict=True)
        return {kind: part.reshape(-1).view(np.uint8) for kind, part in parts if part is not None}


_Files = TypeVar("_Files", bound=FrameFiles)
_Result = TypeVar("_Result")


def check_frame(
    root: Path, files: FrameFiles, classes: int, small: Sequence[int]
) -> tuple[FrameReport, Frame | None]:
    """Decode and judge every file of a frame; the frame is None where it has faults or no image.

    Names in the report are relative to `root`; of the classes `small` it holds some pixels.
    """
    report = FrameReport()
    names = {kind: path.relative_to(root).as_posix() for kind, path in files.present.items()}
    pixels: dict[str, NDArray[Any]] = {}
    for kind, path in files.present.items():
        try:
            content = path.read_bytes()
            pixels[kind] = decode(content, KINDS[kind])
        except (OSError, UnfitError) as error:
            found = faults.words(error)
            report.faults.append(Fault(names[kind], found, KINDS[kind].expected))
        else:
            report.digests.append((names[kind], hashlib.sha256(content).hexdigest()))
    # The image sets the size; where it cannot be read, depth and label still check each other.
    sizes = {kind: (part.shape[0], part.shape[1]) for kind, part in pixels.items()}
    report.hw = next(iter(sizes.values()), (0, 0))
    if any(hw != report.hw for hw in sizes.values()):
        report.faults += faults.size_faults(names, sizes)
    if "depth" in pixels:
        report.missing_depth = float(np.mean(pixels["depth"] == 0))
    if "label" in pixels:
        _count(names["label"], pixels["label"], classes, small, report)
    if "image" not in pixels or report.faults:
        return report, None
    if "label" in pixels:
        report.thumbnail = thumbnail(pixels["image"])
    return report, Frame(pixels["image"], pixels.get("depth"), pixels.get("label"))


def read_frame(sample: Sample) -> Frame:
    """Decode a sample's files; FileNotFoundError if one is gone, RuntimeError if it changed."""
    label_HW = None if sample.label is None else read_label(sample)
    return Frame(read_image(sample), read_depth(sample), label_HW)


def read_image(sample: Sample) -> NDArray[np.uint8]:
    """The `image_HW3` of `read_frame` alone."""
    return _read(sample.image, KINDS["image"], sample.hw)


def read_depth(sample: Sample) -> NDArray[np.uint16] | None:
    """The `depth_HW` of `read_frame` alone."""
    return None if sample.depth is None else _read(sample.depth, KINDS["depth"], sample.hw)


def read_label(sample: Sample) -> NDArray[np.uint8]:
    """The `label_HW` of `read_frame` alone; ValueError if there is none."""
    if sample.label is None:
        raise ValueError(f"{sample.stem} has no label file; choose a training frame")
    return _read(sample.label, KINDS["label"], sample.hw)


def decode(content: bytes, kind: FileKind) -> NDArray[np.uint8 | np.uint16]:
    """The pixels of a file, indices where it has a palette; UnfitError if it is not of the kind."""
    header, mode = PngHeader.of(content), ""
    try:
        pixels: NDArray[Any] | None = decode_png(content)
        if pixels is None:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as opened:
                mode = opened.mode
                if mode == "RGB" and header is None:
                    pixels = _decode_jpeg(content, opened.size)
                if pixels is None:
                    pixels = np.array(opened)  # a copy: torch refuses read-only memory
    except _BROKEN as error:
        raise UnfitError(faults.unreadable(content, error)) from error
    # Pillow's modes hide the bit depth (a 16-bit RGB PNG opens as 8-bit), so the header says it.
    found = header.kind if header else f"8-bit {'grey' if mode == 'L' else mode} JPEG"
    end = _PNG_END if header else _JPEG_END
    if found not in kind.found or not content.endswith(end):
        raise UnfitError(faults.unfit(content, found, kind, end))
    return pixels


def in_order(
    work: Callable[[_Files], _Result], frames: Iterable[_Files], workers: int
) -> Generator[_Result]:
    """What `work` makes of each frame, in order, by threads, which end when this is closed.

    At most 16 frames, or two a worker if these are more, are asked for beyond the one that is
    taken: so many decoded ones may wait in memory.
    """
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for files in frames:
            read_ahead(files)
            waiting.append(pool.submit(work, files))
            if len(waiting) > max(_AHEAD, 2 * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_ahead(files: FrameFiles) -> None:
    """Let the system fetch a frame's files; whoever reads them says what is wrong with them."""
    for path in files.present.values() if hasattr(os, "posix_fadvise") else ():
        with suppress(OSError), path.open("rb", buffering=0) as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _decode_jpeg(content: bytes, size: tuple[int, int]) -> NDArray[Any] | None:
    """(H, W, 3); None where something is odd: simplejpeg refuses what libjpeg only warns of."""
    with suppress(ValueError):
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if (width, height) == size and colours == "YCbCr":
            image_HW3: NDArray[Any] = simplejpeg.decode_jpeg(content)
            return image_HW3
    return None


def _read(path: Path, kind: FileKind, hw: tuple[int, int]) -> NDArray[Any]:
    try:
        pixels = decode(path.read_bytes(), kind)
        if pixels.shape[:2] != hw:
            raise UnfitError("{1} x {0} pixels".format(*pixels.shape))
    except FileNotFoundError:
        raise
    except (OSError, UnfitError) as error:
        raise RuntimeError(faults.changed(path, kind, hw, error)) from error
    return pixels


def _count(
    name: str, label: NDArray[Any], classes: int, small: Sequence[int], report: FrameReport
) -> None:
    counts = np.bincount(label.ravel(), minlength=256)
    if counts[classes:IGNORE_INDEX].any():
        report.faults.append(faults.label_fault(name, counts, classes))
    report.class_pixels = counts[:classes].tolist()
    report.ignored_pixels = int(counts[IGNORE_INDEX])
    # Of each class an equal quota, spread evenly over its pixels in raster order.
    quota = MAX_SMALL_PIXELS // max(1, len(small))
    for index in small:
        places = np.flatnonzero(label == index) if counts[index] else np.zeros(0, np.int64)
        if len(places) > quota:
            places = places[(2 * np.arange(quota) + 1) * len(places) // (2 * quota)]
        rows_columns = np.stack(np.divmod(places, label.shape[1]), axis=1)
        report.small_pixels += rows_columns.ravel().tolist()
