"""The drawings of a page, each from typed figures to an SVG.

Axes: N frames, C class (truth by prediction).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from engine.report.page import drawing
from engine.report.page.drawing import ACCENT, BAD, INK, MUTED

if TYPE_CHECKING:
    # Not to draw: they load PyTorch and SciPy.
    from engine.selection.blend_search import BlendCurve
    from engine.selection.records import Interval
    from engine.training.records import EpochLine

_WIDE, _HALF = 5.6, 4.4
"""Inches, at 96 pixels each: of a drawing that stands alone, and of two side by side, which is what
a telephone shows across."""

_MARKED = 12
"""Epochs up to which each is marked: fewer points are no line yet."""

_ACCENT_RGB = (37, 99, 235)
"""Of cells of the confusion, which are a picture: on white and on black as the shares fade."""

Value = Callable[["EpochLine"], float | None]


class Band(NamedTuple):
    """A value with its interval, by name."""

    name: str
    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, name: str, interval: "Interval") -> "Band":
        """Of a score."""
        return cls(name, interval.value, interval.low, interval.high)


def fold_curves(
    curves: Mapping[int, Sequence["EpochLine"]], name: str, told: str, *values: tuple[str, Value]
) -> Markup | None:
    """One line a fold over the epochs, of up to two values: drawn out and dashed. None without any.

    Args:
        curves: lines by fold.
        name: of the drawing.
        told: what it shows.
        values: label and value of a line.
    """
    drawn = [
        (fold, style, points)
        for style, (_, value) in zip(("-", (0, (2.5, 1.8))), values, strict=False)
        for fold, lines in curves.items()
        if (points := [(one.epoch, v) for one in lines if (v := value(one)) is not None])
    ]
    if not drawn:
        return None
    with drawing.styled():
        figure, axes = drawing.axes(_HALF, 2.7)
        for fold, style, points in drawn:
            epochs, found = zip(*points, strict=True)
            look = drawing.series(fold)
            marked: dict[str, Any] = (
                {"marker": "o", "markersize": 3.5} if len(points) <= _MARKED else {}
            )
            if style != "-":
                look["linestyle"] = style
            axes.plot(epochs, found, label=f"fold {fold}" * (style == "-"), **look, **marked)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.margins(x=0.04)
        if len(curves) > 1:
            axes.legend(ncols=min(len(curves), 3), loc="best", handlelength=1.4, columnspacing=1)
        return drawing.svg(figure, name, told)


def bands(found: Sequence[Band], name: str, told: str, mean: float | None) -> Markup:
    """A row a class: its value as a point on its interval; the mean as a line through all."""
    with drawing.styled():
        figure, axes = drawing.axes(_WIDE, 0.7 + 0.24 * len(found))
        rows = np.arange(len(found))[::-1]
        for row, one in zip(rows.tolist(), found, strict=True):
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [row, row], color=ACCENT, alpha=0.4, linewidth=5)
            axes.plot(one.value, row, "o", color=ACCENT, markersize=5.5, clip_on=False)
        if mean is not None:
            axes.axvline(mean, color=INK, linewidth=1, linestyle=(0, (3, 3)))
            axes.annotate(
                f"mean {mean:.3f}",
                (mean, 1),
                (4, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                color=INK,
                fontsize=8.5,
            )
        axes.set_yticks(rows, [drawing.short(one.name) for one in found])
        axes.tick_params("y", labelcolor=INK)
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.7, len(found) - 0.3)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("IoU")
        return drawing.svg(figure, name, told)


def differences(found: Sequence[Band], name: str, told: str) -> Markup:
    """A row a figure: a difference and its interval about 0, in red where it lies below it."""
    with drawing.styled():
        figure, axes = drawing.axes(_WIDE, 0.7 + 0.24 * len(found))
        rows = np.arange(len(found))[::-1]
        axes.axvline(0, color=INK, linewidth=1)
        for row, one in zip(rows.tolist(), found, strict=True):
            sure = one.low is not None and one.high is not None and one.low * one.high > 0
            colour = (ACCENT if one.value > 0 else BAD) if sure else MUTED
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [row, row], color=colour, alpha=0.4, linewidth=5)
            axes.plot(one.value, row, "o", color=colour, markersize=5.5)
        axes.set_yticks(rows, [drawing.short(one.name) for one in found])
        axes.tick_params("y", labelcolor=INK)
        axes.set_ylim(-0.7, len(found) - 0.3)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("A better by   (IoU)")
        return drawing.svg(figure, name, told)


def confusion(count_CC: NDArray[np.integer], classes: Sequence[str], name: str) -> Markup:
    """The share of each true class's pixels by prediction; numbers in the cells of few classes."""
    total_C1 = count_CC.sum(axis=1, keepdims=True)
    share_CC = np.divide(count_CC, total_C1, out=np.zeros(count_CC.shape), where=total_C1 > 0)
    many = len(classes)
    side = 1.6 + min(0.42 * many, 9.0) if many <= 20 else 9.0
    with drawing.styled():
        figure, axes = drawing.axes(side, side - 0.2)
        # Transparent where nothing is, so that light and dark pages shine through.
        cells = np.empty((many, many, 4))
        cells[..., :3] = np.array(_ACCENT_RGB) / 255
        cells[..., 3] = share_CC**0.7
        axes.imshow(cells, interpolation="none", aspect="equal")
        if many <= 20:
            for truth, predicted in np.ndindex(share_CC.shape):
                if (share := share_CC[truth, predicted]) >= 0.005:
                    colour = "white" if share > 0.5 else INK
                    told, size = f"{100 * share:.0f}", 8.0
                    place: dict[str, Any] = {"ha": "center", "va": "center"}
                    axes.text(predicted, truth, told, color=colour, fontsize=size, **place)
        step = -(-many // 60)
        labels = [drawing.short(each) for each in classes][::step]
        axes.set_xticks(range(0, many, step), labels, rotation=90)
        axes.set_yticks(range(0, many, step), labels)
        axes.tick_params(labelcolor=INK)
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        axes.set_xlabel("prediction")
        axes.set_ylabel("truth")
        told = "Confusion matrix, each row the share of a true class's pixels by prediction"
        return drawing.svg(figure, name, told)


def histogram(
    score_N: NDArray[np.floating], marks: Mapping[str, Sequence[float]], name: str
) -> Markup:
    """How many frames reach which mIoU; the frames that are shown as marks below."""
    with drawing.styled():
        figure, axes = drawing.axes(_WIDE, 1.9)
        count, edges = np.histogram(score_N[np.isfinite(score_N)], bins=40, range=(0, 1))
        axes.bar(edges[:-1], count, width=0.0215, align="edge", color=ACCENT, alpha=0.45)
        for (label, found), colour in zip(marks.items(), (BAD, INK, ACCENT), strict=False):
            below: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
            look: dict[str, Any] = {"color": colour, "markersize": 5, "linestyle": "none"}
            axes.plot(found, [-0.02] * len(found), "^", label=label, **below, **look)
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(visible=False, axis="x")
        axes.tick_params("x", pad=7)
        axes.set_xlabel("mIoU of a frame")
        axes.set_ylabel("frames")
        if marks:
            above: dict[str, Any] = {
                "loc": "lower left",
                "bbox_to_anchor": (0, 1),
                "borderaxespad": 0,
            }
            axes.legend(ncols=3, handletextpad=0.1, columnspacing=1, **above)
        return drawing.svg(figure, name, "Frames by mIoU")


_LEAST_SPAN = 0.002
"""Of the mIoU or NLL that a plot by temperature shows."""


def temperatures(
    rows: Sequence[tuple[float, float | None, float | None]], chosen: float, name: str
) -> Markup:
    """The mIoU and, where it was measured, NLL by temperature, one above the other."""
    parts = [("mIoU", [row[1] for row in rows], max), ("NLL", [row[2] for row in rows], min)]
    shown = [part for part in parts if all(value is not None for value in part[1])]
    with drawing.styled():
        figure = Figure(figsize=(_HALF, 0.6 + 1.3 * len(shown)), layout="constrained")
        columns = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, found, best) in zip(columns, shown, strict=True):
            values = [value for value in found if value is not None]
            axes.plot([row[0] for row in rows], values, "o-", color=ACCENT, markersize=4)
            at = values.index(best(values))
            axes.plot(rows[at][0], values[at], "o", color=ACCENT, markersize=9, alpha=0.35)
            axes.axvline(chosen, color=INK, linewidth=1, linestyle=(0, (3, 3)))
            axes.set_ylabel(label)
            axes.margins(x=0.06, y=0.25)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            # Differences that no digit of the table shows are drawn as none.
            low, high = axes.get_ylim()
            missing = max(0.0, _LEAST_SPAN - (high - low)) / 2
            axes.set_ylim(low - missing, high + missing)
            axes.ticklabel_format(axis="y", useOffset=False)
        columns[-1].set_xlabel("temperature   (dashed: the one in use)")
        return drawing.svg(figure, name, " and ".join(part[0] for part in shown) + " by T")


@dataclass(frozen=True)
class Bins:
    """What was predicted at which confidence, and how often it was right."""

    label: str
    count: Sequence[int]
    confidence: Sequence[float | None]
    accuracy: Sequence[float | None]


def reliability(found: Sequence[Bins], name: str) -> Markup:
    """Accuracy by confidence, a line a temperature, on the diagonal where they agree; how often."""
    with drawing.styled():
        figure = Figure(figsize=(_HALF, 4.3), layout="constrained")
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for number, one in enumerate(found):
            look = drawing.series(number)
            points = zip(one.confidence, one.accuracy, strict=True)
            known = [(x, y) for x, y in points if x is not None and y is not None]
            axes.plot(
                *zip(*known, strict=True), marker="o", markersize=3.5, label=one.label, **look
            )
            total, edges = sum(one.count), np.linspace(0, 1, len(one.count) + 1)
            share = [count / total for count in one.count]
            below.stairs(share, edges, color=look["color"], linewidth=1.4)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_ylabel("share that is right")
        axes.legend(loc="upper left")
        below.set_xlabel("confidence")
        below.set_ylabel("of the pixels")
        below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        below.yaxis.set_major_locator(MaxNLocator(2))
        return drawing.svg(figure, name, "Reliability: accuracy by confidence")


def blend_curve(curve: "BlendCurve", ends: tuple[str, str], name: str) -> Markup:
    """The mIoU along the second run's share, with its peak."""
    peak = curve.peak
    with drawing.styled():
        figure, axes = drawing.axes(_WIDE, 3.0)
        axes.axvspan(peak["from"], peak["to"], color=ACCENT, alpha=0.15, linewidth=0)
        axes.plot(curve.share, curve.miou, color=ACCENT)
        axes.plot(peak["share"], peak["miou"], "o", color=ACCENT, markersize=7)
        for at, end, side in ((0, ends[0], "left"), (1, ends[1], "right")):
            value = curve.miou[0 if at == 0 else -1]
            axes.plot(at, value, "o", color=MUTED, markersize=5, clip_on=False)
            _note(axes, f"{drawing.short(end)} alone {value:.4f}", (at, value), side, -14)
        _note(axes, f"{peak['miou']:.4f} at {peak['share']:.3f}", (peak["share"], peak["miou"]))
        axes.set_xlim(0, 1)
        axes.margins(y=0.22)
        axes.set_xlabel(f"share of {drawing.short(ends[1])}")
        axes.set_ylabel("mIoU")
        return drawing.svg(figure, name, "mIoU of the blend by the second run's share")


def _note(
    axes: Axes, told: str, at: tuple[float, float], side: str = "center", up: float = 9
) -> None:
    shift = {"left": 6, "right": -6, "center": 0}[side]
    place: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": side,
        "color": INK,
        "fontsize": 8.5,
    }
    axes.annotate(told, at, (shift, up), **place)
