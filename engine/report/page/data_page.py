"""The page of a dataset folder: what `prepare stats` counts, with pictures of frames."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from engine.frames.decode import Sample, read_frame
from engine.report.data_stats import DataStats, Pair, duplicates_told
from engine.report.page.blocks import KeyFigure, colours_of
from engine.report.page.frames import photo, pictures
from engine.report.page.render import render

FRAMES, PICTURED = 6, 6
"""Frames, and pairs of frames, that are shown as pictures."""

_SECTIONS = (
    ("classes", "Classes"),
    ("depth", "Depth"),
    ("alike", "Near-duplicates"),
    ("frames", "Frames"),
    ("commands", "Commands"),
)


class _Pictured(NamedTuple):
    """Two frames that look alike, as pictures."""

    pair: Pair
    pictures: Sequence[str]


def data_page(stats: DataStats, samples: Sequence[Sample]) -> str:
    """The HTML of a dataset folder; `samples` are its training frames, of which a few are read."""
    by_stem = {sample.stem: sample for sample in samples}
    spread = [samples[n * len(samples) // FRAMES] for n in range(min(FRAMES, len(samples)))]
    shown = [(sample.stem, pictures(read_frame(sample), {})) for sample in spread]
    pictured = [
        _Pictured(
            pair,
            [photo(read_frame(by_stem[stem]).image_HW3) for stem in (pair.first, pair.second)],
        )
        for pair in stats.pairs[:PICTURED]
    ]
    names = [one.name for one in stats.classes]
    figures = [
        KeyFigure("training frames", f"{stats.frames['train']:,}"),
        KeyFigure("test frames", f"{stats.frames['test']:,}"),
        KeyFigure("classes", str(len(names))),
        KeyFigure("unlabelled", f"{100 * stats.unlabelled:.1f} %", "of all pixels"),
        KeyFigure("near-duplicates", f"{stats.duplicates:,}", "pairs"),
    ]
    if stats.scenes:
        figures.insert(2, KeyFigure("scenes", f"{stats.scenes:,}"))
    root = shlex.quote(str(stats.root))
    return render(
        "data.html",
        title=stats.root.resolve().name,
        eyebrow="Roomsmith dataset",
        lead="",
        sections=_SECTIONS,
        figures=figures,
        stats=stats,
        most=max((one.share for one in stats.depth), default=1.0) or 1.0,
        duplicates=duplicates_told(stats),
        pictured=pictured,
        shown=shown,
        commands=[
            (
                "Every fault of the folder, and what its folds leak",
                f"roomsmith prepare check {root}",
            ),
            ("A config for it", f"roomsmith prepare new {root} --time 30m"),
        ],
        colours=colours_of(names),
    )
