"""`atlas.json`: what `frame_errors` counted, as figures.

Axes: N frames, C class (truth by prediction), P parts of the pixels, F figures of a class.
"""

from collections.abc import Sequence
from heapq import nlargest, nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.report.frame_errors import DEPTHS, EDGE_REACH_PX, EDGES, SIZES, FrameErrors
from engine.rundir import Record
from engine.selection.records import Figure, Groups, Scores
from engine.selection.scores import Counts, by_class, group_of, score
from kernels.metrics import class_iou, mean_iou, pixel_accuracy

if TYPE_CHECKING:
    # A finished run is shown without loading PyTorch, which decoding does.
    from engine.frames.decode import Sample

WORST_FRAMES = 12
"""Number of frames on the contact sheet: what one looks at in a minute."""

TOP_CONFUSIONS = 12
"""Number of confusions that are named: about one a class of NYU Depth v2."""


class ClassErrors(Record):
    """Figures of a class over all labelled pixels."""

    iou: Figure
    boundary_iou: Figure
    """Intersection over union of the boundaries of the class in truth and prediction, each the
    pixels of the class with another class within 3 rows and columns, summed over frames (Cheng et
    al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, but
    unlabelled pixels and the frame's border make no boundary)."""
    recall: Figure
    precision: Figure


class PartErrors(Record):
    """Figures of the confusion matrix of a part's pixels alone: an error counts where it lies."""

    name: str
    share: float
    """Of the labelled pixels."""
    pixel_acc: Figure
    """The part's recall."""
    miou: Figure
    iou: dict[str, Figure]
    recall: dict[str, Figure]
    objects: int = 0
    """How many there are; left out but for object sizes."""


class Confusion(Record):
    """A class that is taken for another."""

    truth: str
    prediction: str
    share: float
    """Of the truth's pixels."""
    pixels: int


class WorstFrame(Record):
    """A frame of low mIoU, over the classes in the frame's truth or prediction."""

    stem: str
    fold: int | None
    """The one that validates it; None of a frame that none does."""
    miou: float
    pixel_acc: float


class Atlas(Scores):
    """`atlas.json`; whatever has no pixel to count is None."""

    boundary_miou: float | None
    """The mean over the classes that have a boundary."""
    boundary_reach_px: int
    classes: dict[str, ClassErrors]
    object_size: list[PartErrors]
    """The labelled pixels parted by the size of the true object that they lie on (a 4-connected
    component of one class)."""
    edge: list[PartErrors]
    """By whether they lie on the truth's boundary (a trimap: Kohli, Ladicky and Torr, "Robust
    Higher Order Potentials for Enforcing Label Consistency", IJCV 82, 2009)."""
    depth: list[PartErrors] | None
    """By the depth map, None without any."""
    confusions: list[Confusion]
    """The pairs of classes with the largest share of the truth's pixels."""
    worst_frames: list[WorstFrame]
    key: str
    """Hash of everything that the predictions are made from."""
    elapsed_s: float
    groups: Groups
    """Which frames a bootstrap draws together."""


class AtlasFrames(NamedTuple):
    """The N labelled frames that an atlas is of, the fold of each if any, and the C classes."""

    samples: Sequence["Sample"]
    fold_of: Sequence[int | None]
    classes: Sequence[str]


def worst_frames(frames: AtlasFrames, count_NCC: NDArray[np.uint32]) -> list[WorstFrame]:
    """The frames of least mIoU, by the (N, C, C) confusion of each; unlabelled ones are not."""
    found = [
        WorstFrame(stem=sample.stem, fold=fold, **dict(score(count_CC)))
        for sample, fold, count_CC in zip(frames.samples, frames.fold_of, count_NCC, strict=True)
        if count_CC.any()
    ]
    return nsmallest(WORST_FRAMES, found, key=attrgetter("miou"))


def atlas_of(
    frames: AtlasFrames, count_NCC: NDArray[np.uint32], total: FrameErrors, key: str
) -> Atlas:
    """The atlas of counted errors, without the time that it took.

    Args:
        frames: that were counted.
        count_NCC: (N, C, C) confusion of each frame.
        total: the errors of all frames together.
        key: hash of everything the predictions are made from.
    """
    classes, count_CC = frames.classes, total.size_SCC.sum(axis=0)
    hit_C, truth_C, predicted_C = total.boundary_KC
    edge_C = _share(hit_C, truth_C + predicted_C - hit_C)
    precision_C = _share(np.diagonal(count_CC), count_CC.sum(axis=0))
    # In the order of the fields of `ClassErrors`.
    figures_CF = np.stack([class_iou(count_CC), edge_C, _recall(count_CC), precision_C], axis=1)
    sizes = zip(_parts(SIZES, total.size_SCC, classes), total.objects_S.tolist(), strict=True)
    has_depth = any(sample.depth is not None for sample in frames.samples)
    return Atlas(
        **dict(score(count_CC)),
        boundary_miou=float(np.nanmean(edge_C)) if np.isfinite(edge_C).any() else None,
        boundary_reach_px=EDGE_REACH_PX,
        classes={
            name: ClassErrors(**dict(zip(ClassErrors.model_fields, figures, strict=True)))
            for name, figures in zip(classes, figures_CF.tolist(), strict=True)
        },
        object_size=[size.model_copy(update={"objects": objects}) for size, objects in sizes],
        edge=_parts(EDGES, total.edge_ECC, classes),
        depth=_parts(DEPTHS, total.depth_DCC, classes) if has_depth else None,
        confusions=_confusions(count_CC, classes),
        worst_frames=worst_frames(frames, count_NCC),
        key=key,
        elapsed_s=0.0,
        groups=group_of(frames.samples),
    )


def _parts(names: Sequence[str], count_PCC: Counts, classes: Sequence[str]) -> list[PartErrors]:
    """The P parts that all pixels are divided into."""
    pixels = max(int(count_PCC.sum()), 1)
    return [
        PartErrors(
            name=name,
            share=int(count_CC.sum()) / pixels,
            pixel_acc=pixel_accuracy(count_CC) if count_CC.any() else None,
            miou=mean_iou(count_CC) if count_CC.any() else None,
            iou=by_class(classes, class_iou(count_CC)),
            recall=by_class(classes, _recall(count_CC)),
        )
        for name, count_CC in zip(names, count_PCC, strict=True)
    ]


def _confusions(count_CC: Counts, classes: Sequence[str]) -> list[Confusion]:
    found = [
        Confusion(truth=classes[t], prediction=classes[p], share=pixels / sum(row), pixels=pixels)
        for t, row in enumerate(count_CC.tolist())
        for p, pixels in enumerate(row)
        if pixels and t != p
    ]
    # By share, not by pixels: mIoU weighs every class alike. The first of equals comes first.
    return nlargest(TOP_CONFUSIONS, found, key=attrgetter("share"))


def _recall(count_CC: Counts) -> NDArray[np.float64]:
    return _share(np.diagonal(count_CC), count_CC.sum(axis=1))


def _share(part_C: Counts, whole_C: Counts) -> NDArray[np.float64]:
    """NaN where the whole is nothing."""
    with np.errstate(invalid="ignore"):
        return part_C / whole_C
