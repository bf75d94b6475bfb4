"""One frame from its files, whole and unchanged, by Pillow.

H W: pixels of the frame.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from engine.data.index import Sample

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
    image_HW3 = _decode(sample.image, ("RGB",), "an 8-bit RGB image", sample.hw)
    depth_HW = read_depth(sample)
    label_HW = read_label(sample) if label and sample.label is not None else None
    return Frame(
        torch.from_numpy(image_HW3),
        None if depth_HW is None else torch.from_numpy(depth_HW),
        None if label_HW is None else torch.from_numpy(label_HW),
    )


def read_depth(sample: Sample) -> NDArray[np.uint16] | None:
    """Decode a sample's depth alone: (H, W) millimetres, 0 = missing; None without a file.

    Raises:
        FileNotFoundError: as for `read_frame`.
        RuntimeError: as for `read_frame`.
    """
    if sample.depth is None:
        return None
    # Some of Pillow's modes are wider than the 16 bits that the file has.
    return _decode(sample.depth, _DEPTH_MODES, "a 16-bit depth PNG", sample.hw).astype(np.uint16)


def read_label(sample: Sample) -> NDArray[np.uint8]:
    """Decode a sample's label alone; (H, W), 255 = ignore. Safe to call from several threads.

    Raises:
        ValueError: the sample has no label.
        FileNotFoundError: as for `read_frame`.
        RuntimeError: as for `read_frame`.
    """
    if sample.label is None:
        raise ValueError(f"{sample.stem} has no label file; choose a training frame")
    expected = "an 8-bit single-channel label PNG"
    return _decode(sample.label, _LABEL_MODES, expected, sample.hw).astype(np.uint8, copy=False)


def _decode(
    path: Path, modes: tuple[str, ...], expected: str, hw: tuple[int, int]
) -> NDArray[np.generic]:
    try:
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
