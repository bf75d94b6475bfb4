"""One frame from its files: decoded whole and unchanged, judged, counted.

Depth maps and labels are decoded by `kernels.png`: quicker than Pillow and with the same pixels.
Pillow decodes what it does not. Images: `engine.frames.images`.
"""

import io
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.frames import faults
from engine.frames.depth import spread_of
from engine.frames.images import BROKEN, bytes_after, check_chunks, decode_image, encoding
from engine.frames.kinds import AS_IT_IS, KINDS, Fault, FileKind, FrameReport, Origin, UnfitError
from engine.frames.packed import Packed
from engine.frames.reading import AS_STORED, Reading
from engine.frames.thumbnail import thumbnail
from engine.nyuv2 import IGNORE_INDEX
from kernels.png import PngHeader, decode_png

MAX_SMALL_PIXELS = 256
"""Kept small-class pixels of a frame: enough to centre crops on, a few MB over a whole dataset."""

_AHEAD = 16  # frames that are asked for before they are needed


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
    """Height and width, pixels: of its maps, and of the image as it is read."""
    scene: str | None
    """From scenes.csv; None where that has no line for the stem."""
    digest: str = ""
    """SHA-256 over what its pixels depend on; empty where nobody has read all its files."""
    reading: Reading = AS_STORED
    """What the values in its files stand for."""
    origin: Origin = AS_IT_IS
    """Of the image, as a check found it; by default nothing turns it."""


class Frame(NamedTuple):
    """The decoded files of one sample."""

    image_HW3: NDArray[np.uint8]
    """RGB."""
    depth_HW: NDArray[np.uint16] | None
    """In units of `data.depth_scale`, 0 = missing; None without a file."""
    label_HW: NDArray[np.uint8] | None
    """255 = ignore; None without a file."""

    def contents(self) -> dict[str, NDArray[np.uint8]]:
        """The bytes of its parts by kind."""
        parts = zip(KINDS, self, strict=True)
        return {kind: part.reshape(-1).view(np.uint8) for kind, part in parts if part is not None}


_Files = TypeVar("_Files", bound=FrameFiles)
_Result = TypeVar("_Result")


def check_frame(
    root: Path,
    files: FrameFiles,
    classes: int,
    small: Sequence[int],
    reading: Reading = AS_STORED,
) -> tuple[FrameReport, Frame | None]:
    """Decode and judge every file of a frame; the frame is None where it has faults or no image.

    Names in the report are relative to `root`; of the classes `small` it holds some pixels.
    """
    report = FrameReport()
    names = {kind: path.relative_to(root).as_posix() for kind, path in files.present.items()}
    pixels: dict[str, NDArray[Any]] = {}
    strays = dict[int, int]()
    for kind, path in files.present.items():
        try:
            content, origin = path.read_bytes(), AS_IT_IS
            if kind == "image":
                pixels[kind], origin = decode_image(content, turn=reading.turn)
                report.origin = origin
            else:
                pixels[kind] = decode(content, KINDS[kind])
            if kind == "label":
                pixels[kind], strays = reading.label(pixels[kind], content)
        except (OSError, UnfitError) as error:
            found = faults.words(error)
            report.faults.append(Fault(names[kind], found, KINDS[kind].expected))
        else:
            report.digests.append((names[kind], origin.digest(content)))
    # The image sets the size; where it cannot be read, depth and label still check each other.
    sizes = {kind: (part.shape[0], part.shape[1]) for kind, part in pixels.items()}
    report.hw = next(iter(sizes.values()), (0, 0))
    if any(hw != report.hw for hw in sizes.values()):
        report.faults += faults.size_faults(names, sizes, report.origin.orientation)
    if "depth" in pixels:
        pixels["depth"] = reading.depth(pixels["depth"])
        size = pixels["depth"].size
        report.missing_depth = (size - np.count_nonzero(pixels["depth"])) / size
        report.depth = spread_of(pixels["depth"], reading.depth_scale)
    if "label" in pixels:
        counts = _count(pixels["label"], classes, small, report)
        report.ignored_pixels -= sum(strays.values())
        if strays := _strays(counts, classes, reading, strays):
            fault = faults.label_fault(names["label"], strays, classes, reading.labels)
            report.faults.append(fault)
            report.stray_labels = sorted(strays)
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
    return _read(sample, "image")


def read_depth(sample: Sample) -> NDArray[np.uint16] | None:
    """The `depth_HW` of `read_frame` alone."""
    return None if sample.depth is None else sample.reading.depth(_read(sample, "depth"))


def read_label(sample: Sample) -> NDArray[np.uint8]:
    """The `label_HW` of `read_frame` alone; ValueError if there is none."""
    if sample.label is None:
        raise ValueError(f"{sample.stem} has no label file; choose a training frame")
    return _read(sample, "label")


def decode(content: bytes, kind: FileKind) -> NDArray[np.uint8 | np.uint16]:
    """The pixels of a depth map or label, indices where it has a palette.

    Raises UnfitError if it is not of the kind.
    """
    check_chunks(content)
    header = PngHeader.of(content)
    found = header.kind if header else ""
    try:
        pixels: NDArray[Any] | None = decode_png(content)
        if pixels is None:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "TIFF")) as opened:
                found = encoding(opened, header)
                pixels = np.array(opened)  # a copy: torch refuses read-only memory
                pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    except BROKEN as error:
        raise UnfitError(faults.unreadable(content, error)) from error
    if found not in kind.found:
        raise UnfitError(f"{'an' if found.startswith('8') else 'a'} {found}")
    if header and (after := bytes_after(content, header)):
        raise UnfitError(f"{after} bytes after the end of the picture")
    return pixels


def places_of(
    label_HW: NDArray[np.uint8], small: Sequence[int], counts: NDArray[np.intp] | None = None
) -> list[int]:
    """2 K numbers: row and column of one pixel of the classes `small` after another.

    K is at most `MAX_SMALL_PIXELS`. `counts` are pixels by class, if they are known.
    """
    found: list[int] = []
    # Of each class an equal quota, spread evenly over its pixels in raster order.
    quota = MAX_SMALL_PIXELS // max(1, len(small))
    for index in small:
        if counts is not None and not counts[index]:
            continue
        places = np.flatnonzero(label_HW == index)
        if len(places) > quota:
            places = places[(2 * np.arange(quota) + 1) * len(places) // (2 * quota)]
        rows_columns = np.stack(np.divmod(places, label_HW.shape[1]), axis=1)
        found += rows_columns.ravel().tolist()
    return found


def in_order(
    work: Callable[[_Files], _Result],
    frames: Iterable[_Files],
    workers: int,
    ahead: int | None = None,
) -> Generator[_Result]:
    """What `work` makes of each frame, in order, by threads, which end when this is closed.

    At most `ahead` frames are asked for beyond the one that is taken, by default 16, or two a
    worker if these are more: so many decoded ones may wait in memory.
    """
    waiting: deque[Future[_Result]] = deque()
    most = max(_AHEAD, 2 * workers) if ahead is None else ahead
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for files in frames:
            read_ahead(files)
            waiting.append(pool.submit(work, files))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_ahead(files: FrameFiles) -> None:
    """Let the system fetch a frame's files; whoever reads them says what is wrong with them."""
    for path in files.present.values() if hasattr(os, "posix_fadvise") else ():
        if isinstance(path, Packed):
            with suppress(OSError):
                path.read_ahead()
            continue
        with suppress(OSError), path.open("rb", buffering=0) as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _read(sample: Sample, kind: str) -> NDArray[Any]:
    """What a file of a sample holds: classes, a depth map as it is, or an image."""
    path, needed = sample.present[kind], KINDS[kind]
    strays = dict[int, int]()
    try:
        content = path.read_bytes()
        if kind == "image":
            pixels: NDArray[Any] = decode_image(content, turn=sample.origin.orientation > 1)[0]
        else:
            pixels = decode(content, needed)
        if pixels.shape[:2] != sample.hw:
            raise UnfitError("{1} x {0} pixels".format(*pixels.shape))
        if kind == "label":
            pixels, strays = sample.reading.label(pixels, content)
        if strays:
            raise UnfitError(faults.strays_found(strays))
    except FileNotFoundError:
        raise
    except (OSError, UnfitError) as error:
        raise RuntimeError(faults.changed(path, needed, sample.hw, error)) from error
    return pixels


def _strays(
    counts: NDArray[np.intp], classes: int, reading: Reading, strays: dict[int, int]
) -> dict[int, int]:
    """Pixels by each value of a label that is no class; `strays` are those of 256 and above."""
    if reading.labels:
        return strays
    above = np.flatnonzero(counts[classes:IGNORE_INDEX]) + classes
    return dict(zip(above.tolist(), counts[above].tolist(), strict=True)) | strays


def _count(
    label: NDArray[np.uint8], classes: int, small: Sequence[int], report: FrameReport
) -> NDArray[np.intp]:
    """Note what a label holds; returns its pixels by class, 256 numbers."""
    counts = np.bincount(label.ravel(), minlength=256)
    report.class_pixels = counts[:classes].tolist()
    report.ignored_pixels = int(counts[IGNORE_INDEX])
    report.small_pixels += places_of(label, small, counts)
    return counts
