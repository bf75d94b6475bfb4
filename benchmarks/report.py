"""The figures as tables, and the curves as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.figures import OURS
from benchmarks.fit import PowerLaw
from engine.report.tables import Row, table
from engine.whole import whole_file

_TOO_SHORT_S = 1e-4
"""Below this a phase is only the marks around it."""

_LOG_WIDTH = 160
"""A log has no width of its own, and no row should be cut there."""

_PANEL_INCHES, _DOTS_PER_INCH = 5.2, 100
_OURS, _RIVAL = "#0066cc", "#cc5500"
"""Blue and orange, which nobody's eyes take for one another."""


def print_table(title: str, columns: Sequence[str], lines: Sequence[Row], text: int = 2) -> None:
    """Print a table; its first `text` columns hold words."""
    made = table(title, columns, lines, text=text)
    Console(width=None if Console().is_terminal else _LOG_WIDTH).print(made)


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of rows of the JSON: a line a row and rival, phases below theirs."""
    if not rows:
        return
    lines: list[Row] = []
    for row in rows:
        ours = _seconds(row["median_s"]), f"{row['share_of_floor']:.0%}"
        rival = _seconds(row["rival_median_s"]), f"{row['ratio']:.2f}"
        quartiles = "{:.2f} .. {:.2f}".format(*row["quartiles"]), row.get("rounds", "")
        scores = row.get("miou", ""), row.get("rival_miou", "")
        name = row["name"], row["rival"], row.get("frames", "")
        lines.append((*name, *ours, *rival, *quartiles, *_mib(row), *scores))
        for phase, figures in row.get("phases", {}).items():
            ours_s, rival_s = figures["median_s"], figures["rival_median_s"]
            share = f"{ours_s / row['median_s']:.0%} of it"
            ratio = f"{figures['ratio']:.2f}" if ours_s > _TOO_SHORT_S else ""
            lines.append((f"  {phase}", "", "", _seconds(ours_s), share, _seconds(rival_s), ratio))
    times = "work", "rival", "frames", "ours", "floor", "rival's", "ratio", "quartiles"
    print_table(
        "ratio = rival / ours, median of the rounds; floor: share of our time that this machine's "
        "copy or matrix product would need for the same bytes or operations; MiB: peak beyond what "
        "was there before, mapped files apart",
        (*times, "rounds", "MiB, ours", "rival's", "mIoU, ours", "rival's"),
        lines,
    )


def print_curves(curves: Sequence[dict[str, Any]]) -> None:
    """Print a table of the costs against work: the points, and the fitted laws below them."""
    for curve in curves:
        fits, unit = (curve["fit"], curve["rival_fit"]), curve["unit"]
        lines: list[Row] = []
        for point in curve["points"]:
            ours_s, rival_s = point["median_s"], point["rival_median_s"]
            times = _seconds(ours_s), _seconds(rival_s), f"{rival_s / ours_s:.2f}"
            lines.append((point["work"], *times, *_mib(point)))
        for title, key in (("exponent", "exponent"), ("off by at most", "worst")):
            lines.append((title, *(f"{fit[key]:.3f}" for fit in fits)))
        for title, key in (("one unit", "constant_s"), ("start-up", "startup_s")):
            lines.append((title, *(_seconds(fit[key]) for fit in fits)))
        title = f"{curve['row']} against {unit}, rival: {curve['rival']}"
        print_table(
            title, (unit, "ours", "rival's", "ratio", "MiB, ours", "rival's"), lines, text=0
        )


def draw_curves(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw cost against work on logarithmic axes, a panel a curve, as PNG; whole or not at all.

    Args:
        curves: of the published JSON, at least one.
        path: the file.
    """
    # Only pictures need the extra.
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    size = (_PANEL_INCHES * len(curves), _PANEL_INCHES)
    figure = Figure(size, dpi=_DOTS_PER_INCH, layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
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
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _mib(figures: dict[str, Any]) -> list[str]:
    """Memory of ours and of the rival, mapped files apart where they were measured."""
    keys = [key for key in ("peak_extra_mib", "peak_mapped_mib") if key in figures]
    # Three digits: below a hundred the JSON's one decimal says something.
    shown = {key: f"{mib:.{int(mib < 100)}f}" for key, mib in figures.items() if "_mib" in key}
    return [" + ".join(shown[side + key] for key in keys) for side in ("", "rival_")]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
