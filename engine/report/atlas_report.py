"""`atlas.json`: the counted errors as figures, and the tables that show them.

Axes: N frames, C class (truth by prediction).
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from engine.report.frame_errors import FrameErrors
from engine.report.regions import DEPTHS, EDGE_REACH_PX, EDGES, SIZES
from kernels.confusion import class_iou, mean_iou, pixel_accuracy

WORST_FRAMES = 12
"""Frames on the contact sheet: what one looks at in a minute."""

TOP_CONFUSIONS = 12
"""About one a class of NYU Depth v2, as a table of a dozen lines."""


def describe(
    classes: Sequence[str],
    stems: Sequence[str],
    fold_of: Sequence[int],
    count_NCC: NDArray[np.integer],
    total: FrameErrors,
    *,
    has_depth: bool,
) -> dict[str, Any]:
    """The atlas as JSON.

    Args:
        classes: C class names.
        stems: N stems.
        fold_of: N folds.
        count_NCC: (N, C, C) confusion of each frame.
        total: the errors of all frames together.
        has_depth: whether any frame has a depth map.

    Returns:
        `miou`, `pixel_acc`: over all labelled pixels.
        `classes`: by class `iou`; `boundary_iou`: intersection over union of the boundaries of the
        class in truth and prediction, each the pixels of the class with another class within 3
        rows and columns, summed over frames (Cheng et al., "Boundary IoU: Improving Object-Centric
        Image Segmentation Evaluation", CVPR 2021, but unlabelled pixels and the frame's border
        make no boundary); `recall`, `precision`.
        `boundary_miou`: the mean over the classes that have a boundary.
        `object_size`: the labelled pixels parted by the size of the true object that they lie on
        (a 4-connected component of one class); `edge`: by whether they lie on the truth's boundary
        (a trimap: Kohli, Ladicky and Torr, "Robust Higher Order Potentials for Enforcing Label
        Consistency", IJCV 82, 2009); `depth`: by the depth map, None without any.
        Each part has its `share` of the pixels, `pixel_acc` (the part's recall), `miou` and, by
        class, `iou` and `recall` of the confusion matrix of its pixels alone: an error counts
        where it lies.
        `confusions`: the pairs (truth, prediction) with the largest share of the truth's pixels.
        `worst_frames`: those of least mIoU, over the classes in the frame's truth or prediction.
        Whatever has no pixel to count is None.
    """
    count_CC = total.size_SCC.sum(axis=0)
    hit_C, truth_C, predicted_C = total.boundary_KC
    edge_C = _share(hit_C, truth_C + predicted_C - hit_C)
    by_class = {
        "iou": class_iou(count_CC),
        "boundary_iou": edge_C,
        "recall": _share(np.diagonal(count_CC), count_CC.sum(axis=1)),
        "precision": _share(np.diagonal(count_CC), count_CC.sum(axis=0)),
    }
    pixels = int(count_CC.sum())
    sizes = [_part(*part, pixels, classes) for part in zip(SIZES, total.size_SCC, strict=True)]
    for size, objects in zip(sizes, total.objects_S.tolist(), strict=True):
        size["objects"] = objects
    edges = [_part(*part, pixels, classes) for part in zip(EDGES, total.edge_ECC, strict=True)]
    depths = [_part(*part, pixels, classes) for part in zip(DEPTHS, total.depth_DCC, strict=True)]
    return {
        "miou": mean_iou(count_CC),
        "pixel_acc": pixel_accuracy(count_CC),
        "boundary_miou": float(np.nanmean(edge_C)) if np.isfinite(edge_C).any() else None,
        "boundary_reach_px": EDGE_REACH_PX,
        "classes": {
            name: {figure: _number(value_C[c]) for figure, value_C in by_class.items()}
            for c, name in enumerate(classes)
        },
        "object_size": sizes,
        "edge": edges,
        "depth": depths if has_depth else None,
        "confusions": _confusions(count_CC, classes),
        "worst_frames": _worst(stems, fold_of, count_NCC),
    }


def atlas_tables(atlas: Mapping[str, Any]) -> list[Table]:
    """The content of an `atlas.json` as tables: classes, parts, confusions, worst frames."""
    by_class = Table(
        title=f"boundary mIoU {_shown(atlas['boundary_miou'])} "
        f"(within {atlas['boundary_reach_px']} px of another class)",
        title_justify="left",
    )
    by_class.add_column("class")
    for name in ("boundary IoU", "recall", "precision"):
        by_class.add_column(name, justify="right")
    for name, figures in atlas["classes"].items():
        keys = ("boundary_iou", "recall", "precision")
        by_class.add_row(name, *(_shown(figures[key]) for key in keys))
    without = "" if atlas["depth"] else "; no depth maps, so nothing by depth"
    parts = Table(title=f"pixels by object size, edges and depth{without}", title_justify="left")
    for name in ("part", "objects", "pixels", "pixel accuracy", "mIoU"):
        parts.add_column(name, justify="left" if name == "part" else "right")
    for kind in ("object_size", "edge", "depth"):
        for part in atlas[kind] or ():
            label = f"depth {part['name']}" if kind == "depth" else part["name"]
            figures = _shown(part["pixel_acc"]), _shown(part["miou"])
            parts.add_row(label, str(part.get("objects", "")), f"{part['share']:.1%}", *figures)
        parts.add_section()
    confusions = Table(title="what is taken for what", title_justify="left")
    for name in ("truth", "prediction", "of the truth"):
        confusions.add_column(name, justify="right" if name == "of the truth" else "left")
    for pair in atlas["confusions"]:
        confusions.add_row(pair["truth"], pair["prediction"], f"{pair['share']:.1%}")
    worst = Table(title="worst frames (worst.png)", title_justify="left")
    for name in ("frame", "fold", "mIoU", "pixel accuracy"):
        worst.add_column(name, justify="left" if name == "frame" else "right")
    for frame in atlas["worst_frames"]:
        figures = _shown(frame["miou"]), _shown(frame["pixel_acc"])
        worst.add_row(frame["stem"], str(frame["fold"]), *figures)
    return [by_class, parts, confusions, worst]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _part(
    name: str, count_CC: NDArray[np.int64], pixels: int, classes: Sequence[str]
) -> dict[str, Any]:
    inside = int(count_CC.sum())
    recall_C = _share(np.diagonal(count_CC), count_CC.sum(axis=1))
    return {
        "name": name,
        "share": inside / pixels if pixels else 0.0,
        "pixel_acc": pixel_accuracy(count_CC) if inside else None,
        "miou": mean_iou(count_CC) if inside else None,
        "iou": _named(classes, class_iou(count_CC)),
        "recall": _named(classes, recall_C),
    }


def _confusions(count_CC: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    wrong_CC = count_CC * ~np.eye(len(count_CC), dtype=bool)
    share_CC = wrong_CC / np.maximum(count_CC.sum(axis=1, keepdims=True), 1)
    # By share, not by pixels: mIoU weighs every class alike. The first of equals comes first.
    order = np.argsort(-share_CC, axis=None, kind="stable")[:TOP_CONFUSIONS]
    pairs = [divmod(int(cell), len(count_CC)) for cell in order]
    return [
        {
            "truth": classes[truth],
            "prediction": classes[prediction],
            "share": float(share_CC[truth, prediction]),
            "pixels": int(wrong_CC[truth, prediction]),
        }
        for truth, prediction in pairs
        if wrong_CC[truth, prediction]
    ]


def _worst(
    stems: Sequence[str], fold_of: Sequence[int], count_NCC: NDArray[np.integer]
) -> list[dict[str, Any]]:
    frames = [
        {
            "stem": stem,
            "fold": int(fold),
            "miou": mean_iou(count_CC),
            "pixel_acc": pixel_accuracy(count_CC),
        }
        for stem, fold, count_CC in zip(stems, fold_of, count_NCC, strict=True)
        if count_CC.any()
    ]
    return sorted(frames, key=itemgetter("miou"))[:WORST_FRAMES]


def _share(part_C: NDArray[np.int64], whole_C: NDArray[np.int64]) -> NDArray[np.float64]:
    """NaN where the whole is nothing."""
    share_C = np.full(len(whole_C), np.nan)
    np.divide(part_C, whole_C, out=share_C, where=whole_C > 0)
    return share_C


def _named(classes: Sequence[str], value_C: NDArray[np.float64]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(classes, value_C, strict=True)}


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else float(value)
