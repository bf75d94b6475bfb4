"""One frame from its files, whole and unchanged.

JPEGs are decoded by simplejpeg and PNGs of one channel by `engine.frames.png`, quicker than
Pillow and with the same pixels. Pillow decodes every other file, and says what is wrong with one.

H W: pixels of the frame.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from engine.frames.index import Sample
from engine.frames.png import decode_png

DECODERS = f"simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__}"
"""What decodes JPEGs; another release may round in its own way."""

_Quick = Callable[[bytes, tuple[int, int]], NDArray[np.generic] | None]
"""Decodes what it is meant for; None where Pillow has to have a look."""

_DEPTH_MODES = ("I;16", "I;16B", "I")  # how Pillow, by its version, opens a 16-bit PNG
_LABEL_MODES = ("L", "P")


@dataclass(frozen=True, eq=False)
class Frame:
    """The decoded files of one sample, on the CPU."""

    image_HW3: Tensor
    """(H, W, 3) uint8."""
    depth_HW: Tensor | None
    """(H, W) uint16 millimetres, 0 = missing; None if the sample has no depth file."""
    label_HW: Tensor | None
    """(H, W) uint8, 255 = ignore; None if not asked for or without a file."""


def read_frame(sample: Sample, *, label: bool = False) -> Frame:
    """Decode a sample's image, its depth if it has any and, on request, its label.

    EXIF rotation is ignored, as everywhere. Safe to call from several threads.

    Raises:
        FileNotFoundError: a file is gone; the message names it.
        RuntimeError: a file cannot be decoded, or is not what `engine.prepare check` lets pass;
            the message names the file, what was found and what was needed.
    """
    image_HW3 = read_image(sample)
    depth_HW = read_depth(sample)
    label_HW = read_label(sample) if label and sample.label is not None else None
    return Frame(
        torch.from_numpy(image_HW3),
        None if depth_HW is None else torch.from_numpy(depth_HW),
        None if label_HW is None else torch.from_numpy(label_HW),
    )


def read_image(sample: Sample) -> NDArray[np.uint8]:
    """Decode a sample's image alone: (H, W, 3) RGB.

    Raises:
        FileNotFoundError: as for `read_frame`.
        RuntimeError: as for `read_frame`.
    """
    image_HW3 = _read(sample.image, _decode_jpeg, ("RGB",), "an 8-bit RGB image", sample.hw)
    return image_HW3.astype(np.uint8, copy=False)


def read_depth(sample: Sample) -> NDArray[np.uint16] | None:
    """Decode a sample's depth alone: (H, W) millimetres, 0 = missing; None without a file.

    Raises:
        FileNotFoundError: as for `read_frame`.
        RuntimeError: as for `read_frame`.
    """
    if sample.depth is None:
        return None
    quick = partial(decode_png, bits=16)
    depth_HW = _read(sample.depth, quick, _DEPTH_MODES, "a 16-bit depth PNG", sample.hw)
    # Some of Pillow's modes are wider than the 16 bits that the file has.
    return depth_HW.astype(np.uint16, copy=False)


def read_label(sample: Sample) -> NDArray[np.uint8]:
    """Decode a sample's label alone; (H, W), 255 = ignore. Safe to call from several threads.

    Raises:
        ValueError: the sample has no label.
        FileNotFoundError: as for `read_frame`.
        RuntimeError: as for `read_frame`.
    """
    if sample.label is None:
        raise ValueError(f"{sample.stem} has no label file; choose a training frame")
    quick, expected = partial(decode_png, bits=8), "an 8-bit single-channel label PNG"
    label_HW = _read(sample.label, quick, _LABEL_MODES, expected, sample.hw)
    return label_HW.astype(np.uint8, copy=False)


READERS: Mapping[str, Callable[[Sample], NDArray[Any] | None]] = {
    "image": read_image,
    "depth": read_depth,
    "label": read_label,
}
"""By the names that a `Sample` has for its files."""


def read_ahead(sample: Sample) -> None:
    """Let the system fetch a sample's files from the disk while others are being decoded."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in (sample.image, sample.depth, sample.label):
        # Whoever reads a file says what is wrong with it.
        with suppress(OSError):
            if path is not None:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)


def _decode_jpeg(content: bytes, hw: tuple[int, int]) -> NDArray[np.uint8] | None:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if (height, width) != hw or colours != "YCbCr":
            return None
        image_HW3: NDArray[np.uint8] = simplejpeg.decode_jpeg(content)
    except ValueError:
        return None
    return image_HW3


def _read(
    path: Path, quick: _Quick, modes: tuple[str, ...], expected: str, hw: tuple[int, int]
) -> NDArray[np.generic]:
    try:
        decoded = quick(path.read_bytes(), hw)
        if decoded is not None:
            return decoded
        with Image.open(path) as image:
            if image.mode not in modes:
                raise RuntimeError(f"{path}: expected {expected}, found Pillow mode {image.mode!r}")
            pixels = np.array(image)  # a copy: torch refuses read-only memory
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        # Pillow reports a broken PNG as a SyntaxError.
        raise RuntimeError(f"{path}: cannot be decoded: {error}; restore the file") from error
    if pixels.shape[:2] != hw:
        raise RuntimeError(f"{path}: expected {expected} of size {hw}, found {pixels.shape[:2]}")
    return pixels
