"""How the values in the files of a frame are read: a part of each `Sample`, so of all who read it.

Where nothing is set that differs from the defaults, files are read as they are, at no cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.config import DataConfig
from engine.frames.depth import without_invalid
from engine.frames.labels import classes_of, stored_values
from engine.labels import Table, label_table


@dataclass(frozen=True)
class Reading:
    """What the values in label files and depth maps stand for."""

    labels: Table = ()
    """Class of each value, see `engine.labels`."""
    depth_scale: float = 0.001
    """Metres a unit of depth."""
    depth_invalid: tuple[int, ...] = (0,)
    """Depths that are missing."""

    @classmethod
    def of(cls, data: DataConfig) -> Self:
        """As a config says."""
        table = label_table(data.label_map, data.ignore, data.classes)
        return cls(table, data.depth_scale, data.depth_invalid)

    @property
    def stores(self) -> bytes:
        """What decoded pixels depend on besides files; empty at the defaults. The scale is none."""
        what = self.labels, self.depth_invalid
        return b"" if what == ((), (0,)) else repr(what).encode()

    @property
    def reports(self) -> str:
        """What reports of a check depend on besides files; empty at the defaults."""
        return "" if self == AS_STORED else f" {self.stores.decode()} {self.depth_scale}"

    def label(
        self, pixels_HW: NDArray[Any], content: bytes
    ) -> tuple[NDArray[np.uint8], Mapping[int, int]]:
        """Classes, and pixels by value without one, of a decoded label file with this `content`."""
        return classes_of(stored_values(pixels_HW, content), self.labels)

    def depth(self, pixels_HW: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """A decoded depth map with 0 for all that is missing."""
        return without_invalid(pixels_HW, self.depth_invalid)

    def is_plain(self, kind: str) -> bool:
        """Whether what files of a kind hold is what is used."""
        return self.depth_invalid == (0,) if kind == "depth" else kind == "image" or not self.labels


AS_STORED = Reading()
"""Class indices, and millimetres with 0 = missing."""
