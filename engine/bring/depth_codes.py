"""Depth maps that hold other numbers than they mean."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.frames.images import BROKEN
from engine.mistakes import ConfigError

CODES = ("plain", "sunrgbd")
"""plain: numbers are what they mean; sunrgbd: turned by three bits, as SUN RGB-D stores them."""


def unturned(depth_HW: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Millimetres of a depth map of SUN RGB-D, whose 16 bits stand turned left by three.

    As its toolbox has it, `bitor(bitshift(d, -3), bitshift(d, 13))` of 16 bits: Song, Lichtenberg
    and Xiao, "SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite", CVPR 2015.
    """
    return (depth_HW >> np.uint16(3)) | (depth_HW << np.uint16(13))


def read_depth(path: Path) -> NDArray[np.uint16]:
    """(H, W) numbers of a 16-bit grey file; ConfigError for another."""
    try:
        with Image.open(path) as opened:
            if opened.mode not in ("I;16", "I;16B", "I"):
                raise ConfigError(f"{path} has the mode {opened.mode}; needed: 16-bit grey")
            return np.asarray(opened).astype(np.uint16)
    except BROKEN as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read ({error}); needed: a 16-bit grey PNG") from None
