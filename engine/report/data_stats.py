"""What a dataset folder holds: class shares, sizes, depths, and frames that look alike.

C: classes. N: training frames.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from engine.config import Config
from engine.data.alike import alike_frames
from engine.frames.cache import cache_folder
from engine.frames.decode import Sample, read_depth
from engine.frames.index import Dataset
from engine.frames.samples import count_files, hw_of, stems_of
from engine.report.census import check_notes
from engine.report.tables import table

NEAR_DUPLICATE = 0.95
"""How alike two frames are, see `engine.data.likeness`, from which on they are named: a copy is 1,
views of a recording that follow each other are about 0.9."""

_BINS_M = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0)
_MAPS = 200
"""Depth maps that are read anew for the histogram, at most, evenly spread."""

PAIRS = 20
"""Pairs that are named, at most."""


class ClassShare(NamedTuple):
    """A class in the labels of training frames."""

    name: str
    share: float
    """Of the labelled pixels, 0..1."""
    frames: int
    """That show it."""


class DepthBin(NamedTuple):
    """A part of the histogram of depths."""

    name: str
    share: float
    """Of the pixels with a depth, 0..1."""


class Pair(NamedTuple):
    """Two training frames that look alike."""

    first: str
    second: str
    alike: float
    scenes: str
    """Of both, where they are known and differ; else empty."""


class DataStats(NamedTuple):
    """What a dataset folder holds."""

    root: Path
    frames: dict[str, int]
    """By split."""
    sizes: list[tuple[str, int]]
    """Height x width of training frames, the commonest first."""
    classes: list[ClassShare]
    unlabelled: float
    """Share of all pixels of training frames."""
    depth: list[DepthBin]
    """Empty where there is none."""
    depth_told: str
    alike_told: str
    duplicates: int
    """Pairs that are at least `NEAR_DUPLICATE` alike."""
    pairs: list[Pair]
    """The most alike of them."""
    scenes: int
    notes: list[str]
    """What `prepare check` has to say of it."""


def data_stats(
    root: Path, dataset: Dataset, config: Config, progress: Callable[[int, int], None] | None = None
) -> DataStats:
    """Count what a checked dataset holds; reads some depth maps, and compares all frames."""
    samples, reports = dataset.train.samples, dataset.train.reports
    pixels_NC = np.array([report.class_pixels for report in reports], np.int64)
    pixels_C, labelled = pixels_NC.sum(axis=0), max(1, int(pixels_NC.sum()))
    ignored = sum(report.ignored_pixels for report in reports)
    sizes = Counter(f"{h} x {w}" for h, w in hw_of(samples).tolist())
    shown = zip(config.data.classes, pixels_C, (pixels_NC > 0).sum(axis=0), strict=True)
    classes = [ClassShare(name, float(n) / labelled, int(seen)) for name, n, seen in shown]
    depth, depth_told = _depth(samples, config.data.depth_scale, progress)
    pairs, duplicates, alike_told = _pairs(dataset, cache_folder(config.runtime.cache))
    return DataStats(
        root=root,
        frames={"train": len(samples), "test": len(dataset.test.samples)},
        sizes=sizes.most_common(),
        classes=classes,
        unlabelled=ignored / max(1, ignored + int(pixels_C.sum())),
        depth=depth,
        depth_told=depth_told,
        alike_told=alike_told,
        duplicates=duplicates,
        pairs=pairs,
        scenes=len({sample.scene for sample in samples} - {None}),
        notes=check_notes(config, dataset),
    )


def stats_tables(stats: DataStats) -> list[Table]:
    """The same for a terminal."""
    told = f"{stats.frames['train']} training frames, {stats.frames['test']} test frames"
    sizes = table(f"{stats.root}: {told}", ["height x width", "frames"], stats.sizes[:8])
    rows = [(name, f"{100 * share:.2f} %", str(n)) for name, share, n in stats.classes]
    classes = table("labelled pixels of training frames", ["class", "share", "frames"], rows)
    classes.caption = f"{100 * stats.unlabelled:.2f} % of all pixels carry no label"
    made = [sizes, classes]
    if stats.depth:
        bins = [(name, f"{100 * share:.1f} %") for name, share in stats.depth]
        made.append(table(f"depth, {stats.depth_told}", ["metres", "share"], bins))
    if stats.pairs:
        pairs = [(one.first, one.second, f"{one.alike:.3f}", one.scenes) for one in stats.pairs]
        heads = ["frame", "looks like", "alike", "scenes"]
        made.append(table(duplicates_told(stats), heads, pairs, text=2))
    return made


def duplicates_told(stats: DataStats) -> str:
    """How many pairs look alike, in words."""
    if not stats.duplicates:
        return f"no two training frames are {NEAR_DUPLICATE:g} alike or more"
    more = f"; the first {len(stats.pairs)}" if len(stats.pairs) < stats.duplicates else ""
    return f"{stats.duplicates} pairs are {NEAR_DUPLICATE:g} alike or more{more}"


def _depth(
    samples: Sequence[Sample], scale_m: float, progress: Callable[[int, int], None] | None
) -> tuple[list[DepthBin], str]:
    if not count_files(samples, "depth"):
        return [], "there is none"
    chosen = [samples[n * len(samples) // _MAPS] for n in range(min(_MAPS, len(samples)))]
    chosen = chosen if len(samples) > _MAPS else list(samples)
    count_B = np.zeros(len(_BINS_M), np.int64)
    missing = total = 0
    for number, sample in enumerate(chosen, start=1):
        depth_HW = read_depth(sample)
        if depth_HW is None:
            continue
        known = depth_HW[depth_HW > 0]
        count_B += _binned(known * scale_m)
        missing, total = missing + depth_HW.size - known.size, total + depth_HW.size
        if progress is not None:
            progress(number, len(chosen))
    names = [f"{a:g} .. {b:g}" for a, b in itertools.pairwise(_BINS_M)]
    names.append(f"over {_BINS_M[-1]:g}")
    shares = count_B / max(1, count_B.sum())
    told = f"of {len(chosen)} maps, {100 * missing / max(1, total):.1f} % of the pixels missing"
    return [DepthBin(*pair) for pair in zip(names, shares.tolist(), strict=True)], told


def _binned(depth_m: NDArray[np.floating]) -> NDArray[np.int64]:
    places = np.searchsorted(_BINS_M, depth_m, side="right") - 1
    return np.bincount(places, minlength=len(_BINS_M))


def _pairs(dataset: Dataset, kept: Path) -> tuple[list[Pair], int, str]:
    """The pairs that look most alike, how many look so, and how that was found."""
    alike = alike_frames(dataset.train, folder=kept)
    if alike is None or alike.method is None:
        return [], 0, "the pictures are blank" if alike else "there is one frame"
    found = alike.found
    near = np.flatnonzero(found.alike_P >= NEAR_DUPLICATE)
    order = near[np.argsort(-found.alike_P[near], kind="stable")][:PAIRS]
    stems, samples = stems_of(dataset.train.samples), dataset.train.samples
    pairs = []
    for place in order.tolist():
        one, other = found.pair_P2[place].tolist()
        scenes = {samples[one].scene, samples[other].scene} - {None}
        told = " and ".join(sorted(map(str, scenes))) if len(scenes) > 1 else ""
        pairs.append(Pair(stems[one], stems[other], float(found.alike_P[place]), told))
    return pairs, len(near), alike.method
