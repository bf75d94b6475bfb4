"""A frame in 9 x 12 cells: kept with its report, so that frames are compared without a decoder.

Whole numbers throughout: the same pixels give the same cells on every machine.
"""

import base64

import numpy as np
from numpy.typing import NDArray

CELLS_HW = (9, 12)
"""Rows and columns. Two views of one place agree at this size, two of two places hardly."""

_SAMPLES = 16  # rows and columns of pixels that a cell is averaged over, at least, if there are


def thumbnail(image_HW3: NDArray[np.uint8]) -> str:
    """The mean colours of the cells of an image, uint8 by rows, as base64."""
    step = max(1, min(image_HW3.shape[a] // (_SAMPLES * CELLS_HW[a]) for a in (0, 1)))
    cells = image_HW3[::step, ::step].astype(np.int64)
    for axis, count in enumerate(CELLS_HW):
        size = cells.shape[axis]
        starts = np.arange(count) * size // count
        # Of a cell without a pixel of its own, `reduceat` takes the one that it begins in.
        pixels = np.maximum(np.diff(starts, append=size), 1)
        shape = [count if a == axis else 1 for a in range(3)]
        # Sixteenths survive the first division: two roundings stay below one level.
        scale = 16 if axis == 0 else 1
        cells = np.add.reduceat(cells, starts, axis) * scale // pixels.reshape(shape)
    return base64.b64encode(((cells + 8) // 16).astype(np.uint8).tobytes()).decode()
