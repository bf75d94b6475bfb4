"""The page of two runs on the same frames, side by side."""

import shlex
from pathlib import Path
from typing import NamedTuple

from engine.data.leakage import leakage_told
from engine.report.page import plots
from engine.report.page.blocks import KeyFigure, colours_of
from engine.report.page.contents import RunContents, changed_fields, read_run
from engine.report.page.frame_block import frames_apart
from engine.report.page.plots import Band
from engine.report.page.render import NOTHING, render
from engine.report.page.run_page import curve_plots, losses_told
from engine.report.page.sources import run_source
from engine.rundir import RunDir
from engine.runtime.progress import duration
from engine.selection.records import AT_LABELS, AT_STORE
from engine.selection.statistics import FEWEST_GROUPS, Difference, Differences
from kernels.metrics import class_iou

_SECTIONS = (
    ("what", "What is compared"),
    ("differences", "Differences"),
    ("training", "Training"),
    ("classes", "Confusions"),
    ("frames", "Frames"),
    ("commands", "Commands"),
)


class _Row(NamedTuple):
    name: str
    a: float
    b: float
    found: Difference | None


def comparison_page(
    first: RunDir, second: RunDir, found: Differences, data: Path | None = None
) -> str:
    """The HTML of two finished runs that `open_pair` let pass.

    Args:
        first: A.
        second: B.
        found: A less B.
        data: the dataset folder; None = the one that A's config names.

    Raises:
        ConfigError: one is not finished.
        ValueError: a file is damaged.
    """
    a, b = read_run(first), read_run(second)
    rows = _rows(a, b, found)
    bands = [
        Band(row.name, row.found.difference, row.found.low, row.found.high)
        for row in rows
        if row.found is not None
    ]
    source = run_source({"A": first, "B": second}, a.config, a.folds, data)
    told = found.miou
    ends = "no interval"
    if told.low is not None:
        ends = f"95\u00a0%: {told.low:+.4f} .. {told.high:+.4f}"
    p = "" if told.p is None else f", p = {told.p:.3f}"
    leakage = leakage_told(a.folds.leakage, a.folds.leakage_measured, a.folds.leakage_content)
    groups = a.counted.atlas.groups
    return render(
        "comparison.html",
        title=f"{a.counted.name} and {b.counted.name}",
        eyebrow="Roomsmith comparison",
        lead=f"A is {first.root}, B is {second.root}.",
        sections=_SECTIONS,
        figures=[
            KeyFigure("A - B in mIoU", f"{told.difference:+.4f}", f"{ends}{p}"),
            KeyFigure("A", f"{rows[0].a:.4f}", AT_STORE),
            KeyFigure("B", f"{rows[0].b:.4f}", AT_STORE),
        ],
        what_told=f"Both on the same {len(a.folds.fold_of)} frames in the same {a.folds.kind} "
        f"folds, out-of-fold; {leakage}.",
        a=a.counted,
        b=b.counted,
        sides=_sides(a, b),
        changed=changed_fields(a.config, b.config),
        differences_told=_drawn(groups.count, groups.kind),
        differences=plots.differences(bands, "differences", "Differences with intervals"),
        rows=rows,
        curves=[
            (f"{letter}: {one.counted.name}", curve_plots(one.curves, letter))
            for letter, one in (("A", a), ("B", b))
            if one.curves
        ],
        losses_told=losses_told({**a.curves, **b.curves}),
        confusions=[
            (
                f"{letter}: {one.counted.name}",
                plots.confusion(one.counted.confusion, one.counted.classes, f"{letter}cells"),
            )
            for letter, one in (("A", a), ("B", b))
        ],
        frames=frames_apart(a.counted.count_NCC, b.counted.count_NCC, source),
        commands=[
            (
                "Make this page again",
                f"python -m engine.compare {shlex.quote(str(first.root))} "
                f"{shlex.quote(str(second.root))} --report FILE",
            )
        ],
        colours=colours_of(a.counted.classes),
    )


def _drawn(count: int, kind: str) -> str:
    if count < FEWEST_GROUPS:
        return (
            f"Paired by frame. No interval is given: {count} of {kind}s are too few to draw from."
        )
    return (
        f"Paired by frame; 95\u00a0% intervals by drawing the {count} {kind}s again, the same for "
        "both. Each interval stands for itself: of 20 classes without any difference, one is "
        "expected to have an interval beside 0."
    )


def _rows(a: RunContents, b: RunContents, found: Differences) -> list[_Row]:
    first, second = (class_iou(one.counted.confusion).tolist() for one in (a, b))
    miou = a.counted.intervals.miou.value, b.counted.intervals.miou.value
    rows = [_Row("mIoU", miou[0], miou[1], found.miou)]
    rows += map(_Row, a.counted.classes, first, second, found.by_class)
    return rows


def _sides(a: RunContents, b: RunContents) -> list[tuple[str, str, str]]:
    def of(one: RunContents) -> dict[str, str]:
        summary, atlas = one.counted.summary, one.counted.atlas
        boundary = NOTHING if atlas.boundary_miou is None else f"{atlas.boundary_miou:.4f}"
        peak = summary.peak_memory_mib
        return {
            AT_LABELS: f"{summary.oof.miou:.4f}",
            "pixel accuracy": f"{100 * summary.oof.pixel_acc:.1f} %",
            "boundary mIoU": boundary,
            "temperature": f"{one.temperature.best:g}",
            "time": duration(summary.seconds.get("total", 0.0)),
            "peak memory": f"{peak / 1024:.2f} GiB" if peak else "not measured",
            "commit": one.environment.commit or "not known",
        }

    first, second = of(a), of(b)
    return [(name, first[name], second[name]) for name in first]
