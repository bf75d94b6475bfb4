"""The curves as a picture: cost against work, both sides, on logarithmic axes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.figures import OURS
from benchmarks.fit import PowerLaw
from engine.rundir import whole_file

_PANEL_INCHES, _DOTS_PER_INCH = 5.2, 100
_OURS, _RIVAL = "#0066cc", "#cc5500"
"""Blue and orange, which nobody's eyes take for one another."""


def draw_curves(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one panel a curve, side by side, as PNG; whole or not at all.

    Args:
        curves: of the published JSON, at least one.
        path: the file.
    """
    size = (_PANEL_INCHES * len(curves), _PANEL_INCHES)
    figure = Figure(size, dpi=_DOTS_PER_INCH, layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        _draw(axes, curve)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: Axes, curve: dict[str, Any]) -> None:
    work = [point["work"] for point in curve["points"]]
    along = np.geomspace(min(work), max(work))
    for prefix, name, colour in (("rival_", curve["rival"], _RIVAL), ("", OURS, _OURS)):
        law = PowerLaw(**curve[f"{prefix}fit"])
        axes.plot(work, [p[f"{prefix}median_s"] for p in curve["points"]], "o", color=colour)
        label = f"{name}: {law.startup_s:.2g} s + {law.constant_s:.2g} s x^{law.exponent:.2f}"
        axes.plot(along, [law.seconds(x) for x in along.tolist()], color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel=curve["unit"], ylabel="seconds")
    axes.set_title(f"{curve['row']}: seconds against {curve['unit']}")
    axes.set_xticks(work, [str(amount) for amount in work])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g} s")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend()
