"""Two finished runs on the same frames: how they differ, and how sure that is.

Axes: N frames, C class (truth by prediction).
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from engine.data.folds import FoldsFile
from engine.data.leakage import leakage_told
from engine.mistakes import ConfigError
from engine.report.atlas_report import Atlas
from engine.report.counts import read_counts
from engine.report.tables import Cell, Row, table
from engine.rundir import RunDir, refuse_unfinished, refuse_unscored
from engine.selection.records import AT_STORE
from kernels.metrics import class_iou, mean_iou

if TYPE_CHECKING:
    # Not to refuse two runs: it loads SciPy.
    from engine.selection.statistics import Difference, Differences


class CountedRun(NamedTuple):
    """What the frames of a finished run were counted as."""

    run: RunDir
    atlas: Atlas
    folds: FoldsFile
    count_NCC: NDArray[np.uint32]
    """(N, C, C) pixels, memory-mapped."""


def difference(a: CountedRun, b: CountedRun, resamples: int, seed: int) -> "Differences":
    """How two runs differ that `open_pair` let pass, a less b.

    Raises:
        ValueError: the runs were scored on other labels.
    """
    from engine.selection.statistics import paired_bootstrap

    group_N = np.array(a.atlas.groups.of)
    return paired_bootstrap(a.count_NCC, b.count_NCC, group_N, resamples=resamples, seed=seed)


def comparison_table(a: CountedRun, b: CountedRun, found: "Differences") -> Table:
    """The differences that `difference` found, with 95 % interval and p-value."""
    leakage = leakage_told(a.folds.leakage, a.folds.leakage_measured, a.folds.leakage_content)
    groups, counts = a.atlas.groups, (a.count_NCC, b.count_NCC)
    totals = [count_NCC.sum(axis=0, dtype=np.int64) for count_NCC in counts]
    ious = (class_iou(count_CC).tolist() for count_CC in totals)
    rows: list[Row] = [(AT_STORE, *map(mean_iou, totals), *_cells(found.miou)), ()]
    for *row, difference in zip(a.atlas.classes, *ious, found.by_class, strict=True):
        rows.append((*row, *_cells(difference)))
    return table(
        f"out-of-fold, {len(a.count_NCC)} frames, {a.folds.kind} folds, "
        f"{leakage}; groups: {groups.kind}s\nA: {a.run.root}\nB: {b.run.root}",
        ("", "A", "B", "A - B", "95 % interval", "p", "groups"),
        rows,
    )


def _cells(found: "Difference | None") -> tuple[Cell, ...]:
    """Difference, interval, p-value and groups."""
    if found is None:
        return None, None, None, None
    difference = f"{found.difference:+.4f}"
    if found.low is None or found.high is None or found.p is None:
        return difference, "too few groups", None, found.groups
    return difference, f"{found.low:+.4f} .. {found.high:+.4f}", f"{found.p:.3f}", found.groups


def open_pair(first: RunDir, second: RunDir) -> tuple[CountedRun, CountedRun]:
    """Check that two runs can be compared, and open them.

    Raises:
        ConfigError: a run is not finished, or they do not share frames, classes and folds.
        ValueError: a file is damaged.
    """
    a, b = _open(first), _open(second)
    for what, same in (
        ("classes", list(a.atlas.classes) == list(b.atlas.classes)),
        ("training frames", list(a.folds.fold_of) == list(b.folds.fold_of)),
        ("folds", (a.folds.kind, a.folds.fold_of) == (b.folds.kind, b.folds.fold_of)),
        ("scenes", a.atlas.groups == b.atlas.groups),
    ):
        if not same:
            needed = "compare runs with the same data.root, data.classes and data.fold_* settings"
            raise ConfigError(f"{first.root} and {second.root} have other {what}; {needed}")
    return a, b


def _open(run: RunDir) -> CountedRun:
    if not run.config.is_file():
        raise ConfigError(f"{run.root} is not a run folder: it has no {run.config.name}")
    refuse_unscored(run, "compare the runs of folds that it was chosen by")
    refuse_unfinished(run, run.folds, run.atlas, run.frame_counts)
    atlas = Atlas.read(run.atlas)
    return CountedRun(run, atlas, FoldsFile.read(run.folds), read_counts(run, atlas))
