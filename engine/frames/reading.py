"""What the values in the files of a frame stand for: a part of each `Sample`, for all who read it.

Where nothing is set that differs from the defaults, values are taken as they are, at no cost.

H W: pixels of a frame.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.config import DataConfig
from engine.labels import MOST, Table, label_table
from engine.nyuv2 import IGNORE_INDEX
from kernels.png import PngHeader

_STRAY = (1 << 15) + IGNORE_INDEX  # of a value that the table lacks; as a byte it is unlabelled


@dataclass(frozen=True)
class Reading:
    """What the values in label files and depth maps stand for."""

    labels: Table = ()
    """Class of each value, see `engine.labels`."""
    depth_scale: float = 0.001
    """Metres a unit of depth."""
    depth_invalid: tuple[int, ...] = (0,)
    """Depths that are missing, 0 among them."""
    turn: bool = True
    """Whether images that carry an EXIF orientation are turned upright."""

    @classmethod
    def of(cls, data: DataConfig) -> Self:
        """As a config says."""
        mapped = data.label_map or data.ignore
        table = label_table(data.label_map, data.ignore, data.classes) if mapped else ()
        return cls(table, data.depth_scale, data.depth_invalid, data.exif == "turn")

    @property
    def stores(self) -> bytes:
        """What decoded pixels depend on besides files; empty at the defaults.

        The scale is none of it, nor is `turn`: digests tell of the images that were turned.
        """
        what = self.labels, self.depth_invalid
        return b"" if what == ((), (0,)) else repr(what).encode()

    @property
    def reports(self) -> str:
        """What reports of a check depend on besides files; empty at the defaults."""
        if self == AS_STORED:
            return ""
        return f" {self.stores.decode()} {self.depth_scale} {self.turn}"

    def label(
        self, pixels_HW: NDArray[Any], content: bytes
    ) -> tuple[NDArray[np.uint8], dict[int, int]]:
        """The classes, 255 = ignore, in a label file, and the pixels of each value without one.

        What has no class becomes 255. Without a table one byte is what it says, as `check_frame`
        judges it, and what lies above one byte has no class.

        Args:
            pixels_HW: what decoders make of the file.
            content: its bytes.
        """
        values_HW = _stored_values(pixels_HW, content)
        if not self.labels and values_HW.dtype == np.uint8:
            return values_HW.view(np.uint8), {}
        found_HW = _classes(self.labels)[values_HW]
        strays: dict[int, int] = {}
        if (found_HW == _STRAY).any():
            values, counts = np.unique(values_HW[found_HW == _STRAY], return_counts=True)
            strays = dict(zip(values.tolist(), counts.tolist(), strict=True))
        return found_HW.astype(np.uint8), strays

    def depth(self, depth_HW: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """A decoded depth map with 0 for all that is missing."""
        return depth_HW if self.is_plain("depth") else _known(self.depth_invalid)[depth_HW]

    def is_plain(self, kind: str) -> bool:
        """Whether what files of a kind hold is what is used."""
        return self.depth_invalid == (0,) if kind == "depth" else kind == "image" or not self.labels


AS_STORED = Reading()
"""Class indices, and millimetres with 0 = missing."""


def _stored_values(pixels_HW: NDArray[Any], content: bytes) -> NDArray[np.uint8 | np.uint16]:
    header = PngHeader.of(content)
    if header is None or header.bits >= 8 or header.colour != 0:
        return pixels_HW
    # Pillow stretches grey of fewer bits to 0..255, but for one bit: that it makes True and False.
    step = 1 if header.bits == 1 else 255 // (2**header.bits - 1)
    return pixels_HW.astype(np.uint8) // np.uint8(step)


@lru_cache(maxsize=4)  # a run has one; its threads share it
def _classes(table: Table) -> NDArray[np.uint16]:
    classes = np.full(MOST + 1, _STRAY, np.uint16)
    if table:
        values, indices = np.array(table).T
        classes[values] = indices
    else:
        classes[: IGNORE_INDEX + 1] = np.arange(IGNORE_INDEX + 1)
    return classes


@lru_cache(maxsize=4)
def _known(invalid: tuple[int, ...]) -> NDArray[np.uint16]:
    values = np.arange(MOST + 1, dtype=np.uint16)
    values[list(invalid)] = 0
    return values
