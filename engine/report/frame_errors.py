"""What is wrong in one frame, counted by object size, depth and along the boundaries.

Axes: C class (truth by prediction), S object sizes, E edges, D depths, K three counts of boundary
pixels: common to truth and prediction, of the truth, of the prediction; H W label pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.nyuv2 import IGNORE_INDEX
from engine.report.regions import DEPTHS, EDGES, SIZES, depth_bins, object_sizes, on_boundary


@dataclass(frozen=True, eq=False)
class FrameErrors:
    """The counts of one frame, or of many added up."""

    size_SCC: NDArray[np.int64]
    """Confusion by size of the truth's object; the sum over S counts every labelled pixel."""
    objects_S: NDArray[np.int64]
    """Objects of the truth by size."""
    depth_DCC: NDArray[np.int64]
    """Confusion by depth; without a depth map all of it is "missing"."""
    edge_ECC: NDArray[np.int64]
    """Confusion on the truth's boundary and off it."""
    boundary_KC: NDArray[np.int64]
    """Boundary pixels by class: common, of the truth, of the prediction."""

    @classmethod
    def none(cls, classes: int) -> "FrameErrors":
        """All zero."""
        return cls(
            np.zeros((len(SIZES), classes, classes), np.int64),
            np.zeros(len(SIZES), np.int64),
            np.zeros((len(DEPTHS), classes, classes), np.int64),
            np.zeros((len(EDGES), classes, classes), np.int64),
            np.zeros((3, classes), np.int64),
        )

    def add(self, other: "FrameErrors") -> None:
        """Add the counts of `other` in place."""
        for name, count in vars(self).items():
            np.add(count, getattr(other, name), out=count)


def count_frame(
    mask_HW: NDArray[np.uint8],
    label_HW: NDArray[np.uint8],
    depth_HW: NDArray[np.uint16] | None,
    classes: int,
) -> FrameErrors:
    """Count the errors of one frame.

    Args:
        mask_HW: (H, W) predicted classes.
        label_HW: (H, W) true classes, 255 = ignore; such pixels count nowhere.
        depth_HW: (H, W) millimetres, 0 = missing; None without a depth map.
        classes: number of classes C.
    """
    labelled_HW = label_HW != IGNORE_INDEX
    pair = label_HW[labelled_HW].astype(np.int64) * classes + mask_HW[labelled_HW]
    size_HW, objects_S = object_sizes(label_HW)
    depth = len(DEPTHS) - 1 if depth_HW is None else depth_bins(depth_HW)[labelled_HW]
    # Where nobody judges the prediction it makes no boundary either, as in the truth.
    judged_HW = np.where(labelled_HW, mask_HW, np.uint8(IGNORE_INDEX))
    truth_HW, predicted_HW = on_boundary(label_HW), on_boundary(judged_HW)
    common_HW = truth_HW & predicted_HW & (label_HW == mask_HW)
    boundary_KC = [
        np.bincount(label_HW[common_HW], minlength=classes),
        np.bincount(label_HW[truth_HW], minlength=classes),
        np.bincount(mask_HW[predicted_HW], minlength=classes),
    ]
    return FrameErrors(
        _count_by(size_HW[labelled_HW], len(SIZES), pair, classes),
        objects_S,
        _count_by(depth, len(DEPTHS), pair, classes),
        _count_by(~truth_HW[labelled_HW], len(EDGES), pair, classes),
        np.stack(boundary_KC),
    )


def _count_by(
    region: NDArray[np.uint8 | np.bool_] | int, regions: int, pair: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    cells = classes * classes
    count = np.bincount(np.int64(cells) * region + pair, minlength=regions * cells)
    return count.reshape(regions, classes, classes)
