"""What is wrong in a frame: pixels counted by object size, by depth and along the boundaries.

Axes: C class (truth by prediction), S object sizes, E edges, D depths, K three counts of boundary
pixels: common to truth and prediction, of the truth, of the prediction; H W label pixels.
"""

from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.nyuv2 import IGNORE_INDEX
from engine.selection.scores import Counts

SIZE_LIMITS_PX = (256, 1024, 4096, 16384)
"""Largest object of each size but the last, pixels: a frame of 480 x 640 has 307200."""

DEPTH_LIMITS_M = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Where a depth bin ends and the next begins, metres: of NYU Depth v2's pixels each bin holds 3 to
34 %, the first and the last the fewest."""

EDGE_REACH_PX = 3
"""Rows and columns, pixels, within which another class puts a pixel on the boundary: a band of
twice this width, thin beside all objects but the smallest."""

SIZES = (*(f"<= {limit} px" for limit in SIZE_LIMITS_PX), f"> {SIZE_LIMITS_PX[-1]} px")
"""Names of the object sizes, by number."""

EDGES = (f"<= {EDGE_REACH_PX} px from an edge", "farther from edges")
"""Names of the two parts that the truth's boundary makes, by number."""

DEPTHS = (*(f"< {end:g} m" for end in DEPTH_LIMITS_M), f">= {DEPTH_LIMITS_M[-1]:g} m", "missing")
"""Names of the depths, by number."""


Classes = NDArray[np.uint8]
"""A class a pixel, 255 = none."""


class FrameErrors(NamedTuple):
    """The counts of one frame, or of many added up, all int64."""

    size_SCC: Counts
    """Confusion by size of the truth's object; the sum over S counts every labelled pixel."""
    objects_S: Counts
    """Objects of the truth by size."""
    depth_DCC: Counts
    """Confusion by depth; without a depth map all of it is "missing"."""
    edge_ECC: Counts
    """Confusion on the truth's boundary and off it."""
    boundary_KC: Counts
    """Boundary pixels by class: common, of the truth, of the prediction."""

    def add(self, other: "FrameErrors") -> None:
        """Add the counts of `other` in place."""
        for count, more in zip(self, other, strict=True):
            np.add(count, more, out=count)


def count_frame(
    mask_HW: Classes,
    label_HW: Classes,
    depth_HW: NDArray[np.uint16] | None,
    classes: int,
    depth_scale: float = 0.001,
) -> FrameErrors:
    """Count the errors of one frame.

    Args:
        mask_HW: (H, W) predicted classes.
        label_HW: (H, W) true classes, 255 = ignore; such pixels count nowhere.
        depth_HW: (H, W) units of `depth_scale` metres, 0 = missing; None without a depth map.
        classes: number of classes C.
        depth_scale: metres a unit.
    """
    labelled_HW = label_HW != IGNORE_INDEX
    pair = label_HW[labelled_HW].astype(np.int64) * classes + mask_HW[labelled_HW]

    def count_by(part_HW: NDArray[np.integer | np.bool_], names: Sequence[str]) -> Counts:
        cell = np.int64(classes**2) * part_HW[labelled_HW] + pair
        count = np.bincount(cell, minlength=len(names) * classes**2)
        return count.reshape(len(names), classes, classes)

    size_HW, objects_S = object_sizes(label_HW)
    if depth_HW is None:
        depth_HW = np.zeros_like(label_HW, np.uint16)
    bin_HW = depth_bins(depth_HW, depth_scale)
    # Where nobody judges the prediction it makes no boundary either, as in the truth.
    judged_HW = np.where(labelled_HW, mask_HW, np.uint8(IGNORE_INDEX))
    truth_HW, predicted_HW = on_boundary(label_HW), on_boundary(judged_HW)
    common_HW = truth_HW & predicted_HW & (label_HW == mask_HW)
    edges = (label_HW[common_HW], label_HW[truth_HW], mask_HW[predicted_HW])
    return FrameErrors(
        count_by(size_HW, SIZES),
        objects_S,
        count_by(bin_HW, DEPTHS),
        count_by(~truth_HW, EDGES),
        np.stack([np.bincount(edge, minlength=classes) for edge in edges]),
    )


def object_sizes(label_HW: Classes) -> tuple[NDArray[np.uint8], Counts]:
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
    joined = np.zeros([2 * side - 1 for side in label_HW.shape], bool)
    joined[::2, ::2] = labelled_HW
    joined[1::2, ::2] = (label_HW[1:] == label_HW[:-1]) & labelled_HW[1:]
    joined[::2, 1::2] = (label_HW[:, 1:] == label_HW[:, :-1]) & labelled_HW[:, 1:]
    component_HW = ndimage.label(joined)[0][::2, ::2]
    pixels = np.bincount(component_HW.ravel())
    size = np.digitize(pixels, SIZE_LIMITS_PX, right=True).astype(np.uint8)
    # Component 0 is what is unlabelled.
    return size[component_HW], np.bincount(size[1:], minlength=len(SIZES))


def depth_bins(depth_HW: NDArray[np.uint16], depth_scale: float = 0.001) -> NDArray[np.uint8]:
    """(H, W) the number in `DEPTHS` of each pixel of a depth map, 0 = missing."""
    return _depth_of_unit(depth_scale)[depth_HW]


@cache
def _depth_of_unit(scale_m: float) -> NDArray[np.uint8]:
    depth = np.digitize(np.arange(2**16) / (1 / scale_m), DEPTH_LIMITS_M).astype(np.uint8)
    depth[0] = DEPTHS.index("missing")
    return depth


def on_boundary(class_HW: Classes, reach: int = EDGE_REACH_PX) -> NDArray[np.bool_]:
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
    boundary_HW: NDArray[np.bool_] = class_HW != IGNORE_INDEX
    boundary_HW &= least_HW + np.uint8(1) != most_HW
    return boundary_HW


def _over_window(
    value_HW: Classes, extreme: Callable[[Classes, Classes], Classes], reach: int
) -> Classes:
    """The minimum or maximum over the square window around each pixel, cut at the border."""
    height, width = value_HW.shape
    padded, shifts = np.pad(value_HW, reach, mode="edge"), range(2 * reach + 1)
    rows = reduce(extreme, (padded[top : top + height] for top in shifts))
    return reduce(extreme, (rows[:, left : left + width] for left in shifts))
