"""The published tables of NYU Depth v2: 894 labels, 40 and 13 classes, the official split.

The 40 classes: Gupta, Arbelaez and Malik, "Perceptual Organization and Recognition of Indoor Scenes
from RGB-D Images", CVPR 2013. The 13: see `engine.nyuv2`.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import nyuv2
from engine.bring.opened import read_mat5, refuse
from engine.mistakes import ConfigError

FRAMES = 1449
"""Labelled frames of the official file."""

CLASSES_40 = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror"),
    *("floor mat", "clothes", "ceiling", "books", "refridgerator", "television", "paper", "towel"),
    *("shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp"),
    *("bathtub", "bag", "otherstructure", "otherfurniture", "otherprop"),
)
"""Names of the 40, spelt as published."""

_TO_13 = (
    *(12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5),
    *(7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 7),
)


@dataclass(frozen=True, eq=False)
class Tables:
    """Names of the 894 labels, and their classes; numbers count from 1 in all of them."""

    names: tuple[str, ...]
    to_40: NDArray[np.uint8]
    """(894,) 1..40."""
    to_13: NDArray[np.uint8]
    """(40,) 1..13."""

    def classes(self, count: int) -> tuple[str, ...]:
        """Names of the 13, the 40 or the 894."""
        return {13: nyuv2.CLASSES, 40: CLASSES_40}.get(count, self.names)

    def of_label(self, count: int) -> NDArray[np.uint16]:
        """(895,) by label of the file: class of 13 or 40, from 0, and 255 for 0, the unlabelled.

        Of the 894 the label itself: 255 is one of them, so nothing is left to stand for no class.
        """
        if count == len(self.names):
            return np.arange(len(self.names) + 1, dtype=np.uint16)
        number = self.to_40 if count == len(CLASSES_40) else self.to_13[self.to_40 - 1]
        none = np.array([nyuv2.IGNORE_INDEX], np.uint16)
        return np.concatenate([none, number.astype(np.uint16) - 1])


def published_tables() -> Tables:
    """Those that come with the engine."""
    text = resources.files("engine.bring").joinpath("nyuv2_labels.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    to_40 = np.array([int(row["class40"]) for row in rows], np.uint8)
    return Tables(tuple(row["name"] for row in rows), to_40, np.array(_TO_13, np.uint8))


def with_mapping(tables: Tables, path: Path) -> Tables:
    """The tables with those of a file in their place: `classMapping40.mat`, `class13Mapping.mat`.

    Raises ConfigError for what is neither.
    """
    needed = "classMapping40.mat (mapClass) or class13Mapping.mat (classMapping13)"
    held = read_mat5(path, needed)
    if "mapClass" in held:
        return replace(tables, to_40=_numbers(path, held["mapClass"], len(tables.names), 40))
    try:
        numbers = held["classMapping13"][()]["labels13"]
    except (KeyError, ValueError, IndexError, TypeError):
        refuse(path, f"a MATLAB file of {_named(held)}", needed)
    return replace(tables, to_13=_numbers(path, numbers, len(CLASSES_40), 13))


def official_split(frames: int) -> NDArray[np.bool_]:
    """(frames,) which train, by the official split; ConfigError for another number of frames."""
    if frames != FRAMES:
        told = f"the official split is of {FRAMES:,} frames and the file has {frames:,}"
        raise ConfigError(f"{told}; name its own split: --splits FILE")
    text = resources.files("engine.bring").joinpath("nyuv2_train.txt").read_text("utf-8")
    trains = np.zeros(frames, np.bool_)
    for first, _, last in (word.partition("-") for word in text.split()):
        trains[int(first) - 1 : int(last or first)] = True
    return trains


def read_splits(path: Path, frames: int) -> NDArray[np.bool_]:
    """(frames,) which train, by a `splits.mat`; its numbers count from 1.

    Raises ConfigError for another file, or numbers that do not name each frame once.
    """
    needed = "splits.mat with trainNdxs and testNdxs"
    held = read_mat5(path, needed)
    if not {"trainNdxs", "testNdxs"} <= held.keys():
        refuse(path, f"a MATLAB file of {_named(held)}", needed)
    parts = [np.atleast_1d(held[name]).ravel() for name in ("trainNdxs", "testNdxs")]
    both = np.concatenate(parts)
    if both.dtype.kind not in "iuf" or (both != np.round(both)).any():
        refuse(path, "of other values", f"{needed}, whole numbers from 1")
    numbers = both.astype(np.int64)
    if not np.array_equal(np.sort(numbers), np.arange(1, frames + 1)):
        told = f"numbers {numbers.min()} to {numbers.max()}, {len(np.unique(numbers)):,} of them"
        refuse(path, f"of {told}", f"each frame of the file once, 1 to {frames:,}")
    trains = np.zeros(frames, np.bool_)
    trains[parts[0].astype(np.int64) - 1] = True
    return trains


def _numbers(path: Path, found: Any, length: int, most: int) -> NDArray[np.uint8]:
    numbers = np.asarray(found).ravel()
    fits = numbers.dtype.kind in "iuf" and len(numbers) == length
    if not fits or numbers.min() < 1 or numbers.max() > most:
        refuse(path, f"of {len(numbers)} entries", f"{length} numbers of 1 to {most}")
    return numbers.astype(np.uint8)


def _named(held: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(sorted(name for name in held if name[:2] != "__")) or "no variable"
