"""Which part of a frame each pixel belongs to: its object's size, its depth, next to an edge.

Axes: H W pixels at the label's own resolution.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.nyuv2 import IGNORE_INDEX, MILLIMETRES_PER_METRE

SIZE_LIMITS_PX = (256, 1024, 4096, 16384)
"""Largest object of each size but the last, pixels: a frame of 480 x 640 has 307200."""

DEPTH_LIMITS_M = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Where a depth bin ends and the next begins, metres: of NYU Depth v2's pixels each bin holds 3 to
34 %, the first and the last the fewest."""

EDGE_REACH_PX = 3
"""Rows and columns, pixels, within which another class puts a pixel on the boundary: a band of
twice this width, thin beside all objects but the smallest."""

SIZES = (
    f"<= {SIZE_LIMITS_PX[0]} px",
    *(f"<= {limit} px" for limit in SIZE_LIMITS_PX[1:]),
    f"> {SIZE_LIMITS_PX[-1]} px",
)
"""Names of the object sizes, by number."""

EDGES = (f"<= {EDGE_REACH_PX} px from an edge", "farther from edges")
"""Names of the two parts that the truth's boundary makes, by number."""

DEPTHS = (
    f"< {DEPTH_LIMITS_M[0]:g} m",
    *(f"< {limit:g} m" for limit in DEPTH_LIMITS_M[1:]),
    f">= {DEPTH_LIMITS_M[-1]:g} m",
    "missing",
)
"""Names of the depths, by number."""

_DEPTH_OF_MM = np.digitize(
    np.arange(2**16), [limit * MILLIMETRES_PER_METRE for limit in DEPTH_LIMITS_M]
).astype(np.uint8)
_DEPTH_OF_MM[0] = len(DEPTH_LIMITS_M) + 1


def object_sizes(label_HW: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The objects of a label map by size.

    An object is a connected component: labelled pixels of one class, each beside the next one in
    its row or column.

    Returns:
        (H, W) the number in `SIZES` of the object of each pixel, any number where the pixel is
        unlabelled; and how many objects of each size there are.
    """
    # Here, so that a finished run is shown without it.
    from scipy import ndimage

    labelled_HW = label_HW != IGNORE_INDEX
    # One search finds the components of all classes: between any two neighbouring pixels stands
    # a point that joins them if they are of one class.
    joined = np.zeros([max(2 * side - 1, 0) for side in label_HW.shape], bool)
    joined[::2, ::2] = labelled_HW
    joined[1::2, ::2] = (label_HW[1:] == label_HW[:-1]) & labelled_HW[1:]
    joined[::2, 1::2] = (label_HW[:, 1:] == label_HW[:, :-1]) & labelled_HW[:, 1:]
    component_HW = ndimage.label(joined)[0][::2, ::2]
    pixels = np.bincount(component_HW.ravel())
    size = np.digitize(pixels, SIZE_LIMITS_PX, right=True).astype(np.uint8)
    # Component 0 is what is unlabelled.
    return size[component_HW], np.bincount(size[1:], minlength=len(SIZES))


def depth_bins(depth_HW: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """(H, W) the number in `DEPTHS` of each pixel of a depth map in millimetres, 0 = missing."""
    return _DEPTH_OF_MM[depth_HW]


def on_boundary(class_HW: NDArray[np.uint8], reach: int = EDGE_REACH_PX) -> NDArray[np.bool_]:
    """Pixels with a class that have a pixel of another class within `reach` rows and columns.

    Pixels without a class and the border of the frame make no boundary: where a map is unlabelled
    nobody knows if there is one.

    Args:
        class_HW: (H, W) classes 0 .. 254, 255 = none.
        reach: distance in pixels, diagonals as long as rows and columns; at least 1.
    """
    least_HW = _over_window(class_HW, np.minimum, reach)  # 255 is above every class
    shifted_HW = class_HW + np.uint8(1)  # 255 + 1 = 0, below every class
    most_HW = _over_window(shifted_HW, np.maximum, reach)
    boundary_HW: NDArray[np.bool_] = (least_HW + np.uint8(1) != most_HW) & (
        class_HW != IGNORE_INDEX
    )
    return boundary_HW


def _over_window(
    value_HW: NDArray[np.uint8], extreme: Callable[[Any, Any], Any], reach: int
) -> NDArray[np.uint8]:
    """The minimum or maximum over the square window around each pixel, cut at the border."""
    size = 2 * reach + 1
    for _ in range(2):
        # Along the rows' direction; the transposition then puts the other one first, and back.
        value_HW = np.pad(value_HW, ((reach, reach), (0, 0)), mode="edge")
        width = 1
        while width < size:
            step = min(width, size - width)
            value_HW = extreme(value_HW[:-step], value_HW[step:])
            width += step
        value_HW = value_HW.T
    return value_HW
