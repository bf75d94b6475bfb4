"""What the files of a data set show: all that a plan is made of.

C: classes. N: training frames.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import JsonValue

from engine.cli import read_file
from engine.frames.glance import label_values
from engine.frames.index import DatasetError, list_dataset
from engine.labels import UNLABELLED
from engine.mistakes import ConfigError
from engine.nyuv2 import CLASSES, IGNORE_INDEX

if TYPE_CHECKING:
    from engine.config import Config
    from engine.frames.index import Dataset

_LOOKED_AT = 400
"""Labels whose values are looked at, a few ms each; the check that follows reads all."""

_PAIRED = 0.05
"""Share of frames of random folds with a neighbour in training, below which frames are apart."""


@dataclass(frozen=True)
class Labels:
    """What label files hold."""

    data: Mapping[str, JsonValue]
    """Fields of `[data]` that say so: classes, and what else stands in `dataset.toml`."""
    reason: str


@dataclass(frozen=True)
class Fingerprint:
    """What a sound data set holds."""

    root: Path
    labels: Labels
    classes: tuple[str, ...]
    frames: int
    """N, to train on."""
    tests: int
    hw: tuple[int, int]
    """Median height and width of training frames."""
    sizes: int
    """How many different sizes."""
    share_C: tuple[float, ...]
    """Of the labelled pixels, 0..1."""
    frames_C: tuple[int, ...]
    """Frames that show a class."""
    depth: str
    """Empty: every frame has depth that can be used; else why not."""
    depth_scale: float
    """Metres a unit, as the maps' values suggest."""
    folds: Mapping[str, JsonValue]
    """`fold_kind`, or `splits`, and what belongs to it."""
    folds_reason: str


def look_at_labels(root: Path, classes: Sequence[str] = ()) -> Labels:
    """Which classes label files hold: as `dataset.toml` says, as named, or by their values.

    Raises ConfigError for values that could mean anything, DatasetError for missing files.
    """
    known = root / "dataset.toml"
    told: dict[str, JsonValue] = {}
    if known.is_file():
        told = dict(read_file(known)[1].get("data") or {})  # type: ignore[arg-type]
    if classes:
        return Labels({**told, "classes": list(classes)}, "as named")
    if "classes" in told:
        return Labels(told, f"by {known.name}, which came with the folder")
    if (root / "rooms.json").is_file():
        return Labels({**told, "classes": list(CLASSES)}, "rendered rooms have those of NYUv2")
    train, _, _, faults = list_dataset(root, need_depth=False)
    if faults:
        raise DatasetError(root, faults)
    seen = label_values(train, _LOOKED_AT)
    values = sorted(set[int]().union(*seen.values()))
    found = _by_values(values, f"{len(seen)} labels hold {_ranges(values)}")
    if found is None:
        told_of = f"{root}: labels hold {len(values)} values, {_ranges(values)}"
        raise ConfigError(f"{told_of}; say which class each is of by data.label_map, not by a plan")
    return Labels({**told, **found.data}, found.reason)


def _by_values(values: Sequence[int], where: str) -> Labels | None:
    """What classes values in labels may be; None where they are too many."""
    plain = [value for value in values if value != IGNORE_INDEX]
    if len(plain) > IGNORE_INDEX:
        return None
    if plain == [*range(len(CLASSES))]:
        reason = f"{where}: taken for the 13 of NYU Depth v2; else name yours with --classes"
        return Labels({"classes": list(CLASSES)}, reason)
    mask = plain == [0] and IGNORE_INDEX in values
    if not mask and (not plain or plain[-1] < min(2 * len(plain) + 2, IGNORE_INDEX)):
        return Labels(_named(max(plain[-1:] or [0]) + 1), f"{where}; name them with --classes")
    table: dict[str, JsonValue] = {str(value): n for n, value in enumerate(plain)}
    table[str(IGNORE_INDEX)] = 1 if mask else UNLABELLED
    reason = "masks, 255 the second class" if mask else "each value is a class of its own"
    return Labels({**_named(len(table) - (not mask)), "label_map": table}, f"{where}: {reason}")


def take_fingerprint(config: "Config", dataset: "Dataset", labels: Labels) -> Fingerprint:
    """What a checked data set holds; `config` is what it was read by."""
    from engine.frames.samples import count_files, hw_of
    from engine.report.depth_check import usable_scale

    reports, samples = dataset.train.reports, dataset.train.samples
    hw_N2 = hw_of(samples)
    pixels_NC = np.array([report.class_pixels for report in reports], np.int64)
    total = max(1, int(pixels_NC.sum()))
    scale, depth = config.data.depth_scale, ""
    if (count := count_files(samples, "depth")) < len(samples):
        depth = f"{count} of {len(samples)} frames have depth" if count else "there is no depth"
    else:
        found = usable_scale(dataset.train, scale)
        depth = "" if found else "depth maps hold no measured distances"
        scale = found or scale
    folds, reason = _folds(config, dataset)
    height, width = (int(side) for side in np.median(hw_N2, axis=0))
    return Fingerprint(
        root=Path(config.data.root),
        labels=labels,
        classes=config.data.classes,
        frames=len(samples),
        tests=len(dataset.test.samples),
        hw=(height, width),
        sizes=len(Counter(map(tuple, hw_N2.tolist()))),
        share_C=tuple((pixels_NC.sum(axis=0) / total).tolist()),
        frames_C=tuple((pixels_NC > 0).sum(axis=0).tolist()),
        depth=depth,
        depth_scale=scale,
        folds=folds,
        folds_reason=reason,
    )


def _folds(config: "Config", dataset: "Dataset") -> tuple[dict[str, JsonValue], str]:
    """How to cut folds, so that no two views of a place are parted; and why so."""
    from engine.data.alike import alike_frames
    from engine.data.folds import make_folds
    from engine.frames.cache import cache_folder

    samples, data = dataset.train.samples, config.data
    if data.splits:
        return {"splits": data.splits, "folds": data.folds}, f"{data.splits} says which"
    scenes = Counter(sample.scene for sample in samples)
    count = 5 if len(samples) >= 100 else 3 if len(samples) >= 9 else 2
    count = min(count, len(samples))
    if None not in scenes and len(scenes) > 1:
        count = min(count, len(scenes))
        reason = f"scenes.csv names {len(scenes)} scenes: none is on both sides"
        return {"fold_kind": "scene", "folds": count}, reason
    alike = alike_frames(dataset.train, folder=cache_folder(config.runtime.cache))
    found = make_folds(samples, "random", count, alike=alike).content if alike else None
    leaks = found.share if found is not None and found.share is not None else 0.0
    if leaks < _PAIRED:
        reason = f"random folds part {100 * leaks:.1f} % of the frames from one that looks alike"
        return {"fold_kind": "random", "folds": count}, reason
    assert found is not None
    part = f"random folds would part {100 * leaks:.0f} % of the frames from one that looks alike"
    if "says nothing" in found.method or "by an index" in found.method:
        assert alike is not None
        groups = int(alike.group_N.max()) + 1
        if groups >= count:
            return {"fold_kind": "content", "folds": count}, f"{part}, whatever the names say"
    blocks = max(1, min(8, len(samples) // count // 2))
    reason = f"{part}: names follow the recording"
    return {"fold_kind": "blocked", "folds": count, "blocks_per_fold": blocks}, reason


def _named(count: int) -> dict[str, JsonValue]:
    return {"classes": [f"class{index}" for index in range(max(2, count))]}


def _ranges(values: Sequence[int]) -> str:
    """`0..3, 255` of ascending values."""
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][1] == value - 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    shown = [f"{a}..{b}" if b > a else str(a) for a, b in runs[:8]]
    return ", ".join(shown) + (", ..." if runs[8:] else "")
