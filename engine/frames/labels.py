"""Labels of any depth, and the classes that their values stand for.

H W: pixels of a frame.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.labels import MOST, Table
from engine.nyuv2 import IGNORE_INDEX
from kernels.png import PngHeader

_STRAY = 1 << 15  # of a value that the table lacks; more than any class


def stored_values(pixels_HW: NDArray[Any], content: bytes) -> NDArray[np.uint8 | np.uint16]:
    """The values that a label file holds; `pixels_HW` is what decoders make of its `content`."""
    header = PngHeader.of(content)
    if header is None or header.bits >= 8 or header.colour != 0:
        return pixels_HW
    # Pillow stretches grey of fewer bits to 0..255, but for one bit: that it makes True and False.
    step = 1 if header.bits == 1 else 255 // (2**header.bits - 1)
    return pixels_HW.astype(np.uint8) // np.uint8(step)


def classes_of(
    values_HW: NDArray[np.uint8 | np.uint16], table: Table
) -> tuple[NDArray[np.uint8], Mapping[int, int]]:
    """Classes of a label's values, 255 = ignore, and the pixels of each value that has none.

    What a value that has none becomes is undefined. Without a table one byte is what it says, as
    `check_frame` judges it, and what lies above one byte has no class.
    """
    if not table and values_HW.dtype == np.uint8:
        return values_HW, {}
    found_HW = _lookup(table)[values_HW]
    strays: dict[int, int] = {}
    if (found_HW == _STRAY).any():
        values, counts = np.unique(values_HW[found_HW == _STRAY], return_counts=True)
        strays = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return found_HW.astype(np.uint8), strays


@lru_cache(maxsize=4)  # a run has one; its threads share it
def _lookup(table: Table) -> NDArray[np.uint16]:
    classes = np.full(MOST + 1, _STRAY, np.uint16)
    if table:
        values, indices = np.array(table).T
        classes[values] = indices
    else:
        classes[: IGNORE_INDEX + 1] = np.arange(IGNORE_INDEX + 1)
    return classes
