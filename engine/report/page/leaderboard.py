"""Several runs and blends in one table: `engine.report RUN RUN ...`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from engine.config import Config
from engine.report.page.contents import Changed, Counted, changed_fields, is_blend, read_counted
from engine.report.page.render import render
from engine.rundir import RunDir, load_run
from engine.selection.records import Interval

_ORDERS = (("miou", "mIoU"), ("boundary", "boundary mIoU"), ("time", "time"), ("memory", "memory"))


class Entry(NamedTuple):
    """A run in the leaderboard."""

    name: str
    path: str
    link: str
    """Of its page, relative to the leaderboard's; empty where there is none."""
    miou: Interval
    at_labels: float
    pixel_acc: float
    boundary: float | None
    seconds: float | None
    peak_mib: int
    """0: not measured."""
    frames: int
    differences: list[Changed]
    """Fields in which the runs differ, from the defaults."""
    ranks: dict[str, int]
    """Its place, from 0, in each order."""


def leaderboard(runs: Sequence[RunDir], out: Path) -> str:
    """The HTML of a table of finished runs and blends, to be written to `out`.

    Raises:
        ConfigError: one is neither, or not finished.
        ValueError: a file is damaged.
    """
    found = [read_counted(run) for run in runs]
    configs = [None if is_blend(run) else load_run(run) for run in runs]
    ranks = _ranks(found)
    entries = [
        Entry(
            one.name,
            str(one.run.root),
            _link(one.run.report, out),
            one.intervals.miou,
            one.summary.oof.miou,
            one.summary.oof.pixel_acc,
            one.atlas.boundary_miou,
            one.summary.seconds.get("total"),
            one.summary.peak_memory_mib,
            len(one.atlas.groups.of),
            differences,
            rank,
        )
        for one, differences, rank in zip(found, _differences(configs), ranks, strict=True)
    ]
    entries.sort(key=lambda entry: entry.ranks["miou"])
    return render(
        "leaderboard.html",
        title="Leaderboard",
        eyebrow="Roomsmith",
        lead=f"{len(entries)} runs and blends, by out-of-fold mIoU at store resolution.",
        sections=(("board", "Leaderboard"),),
        figures=[],
        entries=entries,
        orders=_ORDERS,
        warning=_warning(found),
    )


def _ranks(found: Sequence[Counted]) -> list[dict[str, int]]:
    """The place of each run in each order; who has no figure comes last."""
    infinite = float("inf")
    keys: dict[str, list[float]] = {
        "miou": [-one.intervals.miou.value for one in found],
        "boundary": [
            infinite if one.atlas.boundary_miou is None else -one.atlas.boundary_miou
            for one in found
        ],
        "time": [one.summary.seconds.get("total", infinite) for one in found],
        "memory": [one.summary.peak_memory_mib or infinite for one in found],
    }
    ranks: list[dict[str, int]] = [{} for _ in found]
    for order, values in keys.items():
        for rank, place in enumerate(sorted(range(len(found)), key=values.__getitem__)):
            ranks[place][order] = rank
    return ranks


def _differences(configs: Sequence[Config | None]) -> list[list[Changed]]:
    """Of each run the fields that are not the same in all, where its own is not the default."""
    all_fields = [changed_fields(config) if config else [] for config in configs]
    counted: dict[tuple[str, str], int] = {}
    for fields in all_fields:
        for field in fields:
            key = field.name, repr(field.value)
            counted[key] = counted.get(key, 0) + 1
    of_runs = sum(config is not None for config in configs)
    return [
        [field for field in fields if counted[field.name, repr(field.value)] < of_runs]
        for fields in all_fields
    ]


def _link(report: Path, out: Path) -> str:
    if not report.exists():
        return ""
    return quote(Path(os.path.relpath(report.resolve(), out.resolve().parent)).as_posix())


def _warning(found: Sequence[Counted]) -> str:
    """That the runs are not of the same frames, where they are not; labels tell."""
    labels = {tuple(one.confusion.sum(axis=1).tolist()) for one in found}
    if len(labels) < 2:
        return ""
    return (
        "These runs were not scored on the same labels: their figures cannot be compared. "
        "engine.compare refuses such pairs."
    )
