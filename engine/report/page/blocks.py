"""The parts that pages share, from figures to what their templates show.

Axes: C class (truth by prediction).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from engine.report.atlas_report import Atlas, ClassErrors, Confusion, PartErrors
from engine.report.page import plots
from engine.report.page.plots import Band
from engine.selection.records import Interval
from engine.selection.statistics import Intervals
from engine.views.pictures import class_colours


class KeyFigure(NamedTuple):
    """A figure at the top of a page."""

    name: str
    value: str
    note: str = ""


class ClassRow(NamedTuple):
    """A class in the table of classes."""

    name: str
    iou: float | None
    interval: Interval | None
    boundary_iou: float | None
    recall: float | None
    precision: float | None


class ClassBlock(NamedTuple):
    """IoU by class, and what is taken for what."""

    told: str
    bands: Markup
    rows: list[ClassRow]
    miou: Interval
    pixel_acc: Interval
    boundary_miou: float | None
    confusion: Markup
    confusions: Sequence[Confusion]


class Stage(NamedTuple):
    """The time of a stage."""

    name: str
    seconds: float
    share: float | None
    """Of the whole."""


def class_block(
    told: str,
    classes: Mapping[str, ClassErrors],
    intervals: Intervals,
    count_CC: NDArray[np.integer],
    boundary_miou: float | None,
    confusions: Sequence[Confusion],
) -> ClassBlock:
    """The block of classes.

    Args:
        told: what the figures are of.
        classes: the errors of each of the C classes.
        intervals: of the same counts.
        count_CC: (C, C) pixels.
        boundary_miou: the mean of the classes that have a boundary.
        confusions: the commonest, to be named.
    """
    names, found = list(classes), intervals.by_class
    rows = [
        ClassRow(name, e.iou, interval, e.boundary_iou, e.recall, e.precision)
        for (name, e), interval in zip(classes.items(), found, strict=True)
    ]
    bands = [Band.of(name, one) for name, one in zip(names, found, strict=True) if one is not None]
    bands.sort(key=lambda band: -band.value)
    told_bands = "IoU by class with 95 % interval"
    return ClassBlock(
        told,
        plots.bands(bands, "bands", told_bands, intervals.miou.value),
        rows,
        intervals.miou,
        intervals.pixel_acc,
        boundary_miou,
        plots.confusion(count_CC, names, "confusion"),
        confusions,
    )


def interval_told(intervals: Intervals) -> str:
    """How the intervals were found, in a sentence."""
    groups = intervals.miou
    kind = {"scene": "scenes", "block": "blocks of neighbouring frames"}.get(
        groups.groups_of, f"{groups.groups_of}s"
    )
    if groups.low is None:
        return f"No interval is given: {groups.groups} of {kind} are too few to draw from."
    return (
        f"Intervals: 95\u00a0%, by drawing the {groups.groups} {kind} again, never single pixels."
    )


def parts(atlas: Atlas) -> list[tuple[str, list[PartErrors]]]:
    """The labelled pixels of an atlas in parts, by title."""
    found = [("by size of the object", atlas.object_size), ("by distance from an edge", atlas.edge)]
    return [*found, *([("by depth", atlas.depth)] if atlas.depth else [])]


def stages(seconds: Mapping[str, float]) -> list[Stage]:
    """Where the time went; "total" has no share."""
    total = seconds.get("total") or sum(seconds.values())
    return [
        Stage(name, value, None if name == "total" or not total else value / total)
        for name, value in seconds.items()
    ]


def colours_of(classes: Sequence[str]) -> dict[str, str]:
    """The colour of each class as a style sheet has it."""
    found = class_colours()[: len(classes)].tolist()
    return {
        name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in zip(classes, found, strict=True)
    }
