"""One frame from its files, whole and unchanged.

PNGs of one channel are decoded by `engine.frames.png` and JPEGs, whose head Pillow has looked at,
by simplejpeg: quicker than Pillow and with the same pixels. Where they cannot vouch for a file,
Pillow decodes it or says what is wrong with it.

H W: pixels of the frame.
"""

import io
import os
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from engine.frames.listing import KINDS, FileKind, FrameFiles, Sample
from engine.frames.png import PngHeader, decode_png

DECODERS = f"simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__}"
"""What decodes JPEGs; another release may round in its own way."""

_AHEAD = 16  # frames whose files are asked for before they are needed
_JPEG_SIGNATURE, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"

# What Pillow raises on broken input (a broken PNG is a SyntaxError); anything else is a bug.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

_Files = TypeVar("_Files", bound=FrameFiles)
_Result = TypeVar("_Result")


class UnfitError(Exception):
    """What was found in a file instead of what is needed."""


class Frame(NamedTuple):
    """The decoded files of one sample, in the order of `KINDS`."""

    image_HW3: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    depth_HW: NDArray[np.uint16] | None
    """(H, W) millimetres, 0 = missing; None if the sample has no depth file."""
    label_HW: NDArray[np.uint8] | None
    """(H, W), 255 = ignore; None if not asked for or without a file."""

    def contents(self) -> dict[str, NDArray[np.uint8]]:
        """The bytes of its parts by kind."""
        parts = zip(KINDS, self, strict=True)
        return {kind: part.reshape(-1).view(np.uint8) for kind, part in parts if part is not None}


def read_frame(sample: Sample, *, label: bool = False) -> Frame:
    """Decode a sample's image, its depth if it has any and, on request, its label.

    EXIF rotation is ignored, as everywhere. Safe to call from several threads.

    Raises:
        FileNotFoundError: a file is gone; the message names it.
        RuntimeError: a file is not what `engine.prepare check` lets pass; the message names the
            file, what was found and what was needed.
    """
    label_HW = read_label(sample) if label and sample.label is not None else None
    return Frame(read_image(sample), read_depth(sample), label_HW)


def read_whole(sample: Sample) -> Frame:
    """Decode all files of a sample; any fault is a RuntimeError that names its stem."""
    try:
        return read_frame(sample, label=True)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(f"sample {sample.stem} cannot be read: {error}") from error


def read_image(sample: Sample) -> NDArray[np.uint8]:
    """Decode a sample's image alone; raises as `read_frame`."""
    return _read(sample.image, KINDS["image"], sample.hw)


def read_depth(sample: Sample) -> NDArray[np.uint16] | None:
    """Decode a sample's depth alone, None if it has none; raises as `read_frame`."""
    return None if sample.depth is None else _read(sample.depth, KINDS["depth"], sample.hw)


def read_label(sample: Sample) -> NDArray[np.uint8]:
    """Decode a sample's label alone; raises as `read_frame`, and ValueError if it has none."""
    if sample.label is None:
        raise ValueError(f"{sample.stem} has no label file; choose a training frame")
    return _read(sample.label, KINDS["label"], sample.hw)


def decode(content: bytes, kind: FileKind) -> NDArray[np.uint8 | np.uint16]:
    """The pixels of a file, indices where it has a palette.

    Raises:
        UnfitError: the content is damaged, or of another kind.
    """
    if not content:
        raise UnfitError("an empty file (0 bytes)")
    header = PngHeader.of(content)
    if header is None and not content.startswith(_JPEG_SIGNATURE):
        raise UnfitError(f"a file that is neither PNG nor JPEG (it starts with {content[:8]!r})")
    encoding, end = ("PNG", _PNG_END) if header else ("JPEG", _JPEG_END)
    try:
        pixels, mode = _decode(content)
    except _BROKEN as error:
        raise UnfitError(f"a broken or truncated {encoding} ({error})") from error
    # Pillow's modes hide the bit depth (a 16-bit RGB PNG opens as 8-bit), so the header says it.
    found = header.kind if header else f"8-bit {'grey' if mode == 'L' else mode} JPEG"
    if found not in kind.found:
        raise UnfitError(f"{'an' if found.startswith('8') else 'a'} {found}")
    if not content.endswith(end):
        after = len(content) - content.rfind(end) - len(end)
        what = f"{after} bytes after the end of the picture" if end in content else "no end marker"
        raise UnfitError(what)
    return pixels


def fault_of(error: OSError | UnfitError) -> str:
    """What was found, in words, where a file could not be read or decoded."""
    if isinstance(error, UnfitError):
        return str(error)
    return f"a file that cannot be read ({error.strerror})"


def in_order(
    work: Callable[[_Files], _Result], frames: Iterable[_Files], workers: int
) -> Generator[_Result]:
    """What `work` makes of each frame, in order, by threads.

    The system fetches the files of frames to come while others are decoded; a few results wait to
    be taken. Closing the iterator ends the threads.
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
    """Let the system fetch a frame's files from the disk while others are being decoded."""
    for path in files.present.values() if hasattr(os, "posix_fadvise") else ():
        # Whoever reads a file says what is wrong with it.
        with suppress(OSError), path.open("rb", buffering=0) as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _decode(content: bytes) -> tuple[NDArray[Any], str]:
    """The pixels, and Pillow's mode for those of a JPEG."""
    pixels: NDArray[Any] | None = decode_png(content)
    if pixels is not None:
        return pixels, ""
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as opened:
        if opened.mode == "RGB" and opened.format != "PNG":
            pixels = _decode_jpeg(content, opened.size)
        if pixels is None:
            pixels = np.array(opened)  # a copy: torch refuses read-only memory
        return pixels, opened.mode


def _decode_jpeg(content: bytes, size: tuple[int, int]) -> NDArray[Any] | None:
    """(H, W, 3); None where something is odd: simplejpeg refuses what libjpeg only warns of."""
    image_HW3: NDArray[Any] | None = None
    with suppress(ValueError):
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if (width, height) == size and colours == "YCbCr":
            image_HW3 = simplejpeg.decode_jpeg(content)
    return image_HW3


def _read(path: Path, kind: FileKind, hw: tuple[int, int]) -> NDArray[Any]:
    try:
        pixels = decode(path.read_bytes(), kind)
        if pixels.shape[:2] != hw:
            raise UnfitError("{1} x {0} pixels".format(*pixels.shape))
    except FileNotFoundError:
        raise
    except (OSError, UnfitError) as error:
        needed = f"{kind.expected} of {hw[1]} x {hw[0]} pixels"
        found = fault_of(error)
        raise RuntimeError(f"{path}: found {found}; expected {needed}; restore the file") from error
    return pixels
