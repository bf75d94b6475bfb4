"""Folders like Cityscapes': leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png, labels in gtFine.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import JsonValue

from engine.bring.source import Frame, Pixels, states
from engine.mistakes import ConfigError
from engine.nyuv2 import IGNORE_INDEX

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
"""The 19 that are evaluated, by train id."""

_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Their ids in files `_labelIds`; all others are unlabelled."""

_IMAGE = "_leftImg8bit.png"
_LABELS = ("labelTrainIds", "labelIds")


class Cityscapes:
    """Such a folder as a `Source`: images are copied, labels become train ids with 255.

    Frames of `val` lie in `train` too, and `splits.csv` says which they are. A scene is a city.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        """List it.

        Args:
            root: holds leftImg8bit and gtFine.
            classes: names in the order of label values, which are then taken as they are; none:
                the 19 of Cityscapes.

        Raises:
            ConfigError: the folders are not there, or a frame to train on has no label.
        """
        images = sorted((root / "leftImg8bit").glob(f"*/*/*{_IMAGE}"))
        if not images:
            needed = f"leftImg8bit/SPLIT/CITY/NAME{_IMAGE} and gtFine/SPLIT/CITY/NAME_gtFine_*.png"
            raise ConfigError(f"{root} holds no {needed}")
        self._classes = tuple(classes)
        self._images: list[Path] = []
        self._labels: list[Path | None] = []
        self._passed: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self.frames: list[Frame] = []
        for path in images:
            self._add(root, path)
        if not any(frame.fold == "validation" for frame in self.frames):
            self.frames = [frame._replace(fold="") for frame in self.frames]
        self.made_of: Mapping[str, JsonValue] = {
            "files": states([*self._images, *self._labels]),
            "classes": [*classes],
        }
        self.data: Mapping[str, JsonValue] = {"classes": [*(self._classes or CLASSES)]}

    def read(self, number: int) -> Pixels:
        """The files of a frame; ConfigError for a fault."""
        image, label = self._images[number], self._labels[number]
        if label is None or self._classes or label.stem.endswith("labelTrainIds"):
            return Pixels(image, None, label)
        return Pixels(image, None, _train_ids()[_read(label)])

    def notes(self) -> list[str]:
        """Which labels were used, and what was passed over."""
        notes = [f"{count} labels of {kind}" for kind, count in sorted(self._kinds.items())]
        if self._kinds["labelIds"] and not self._classes:
            notes[0] += f": the {len(CLASSES)} classes that are evaluated, else 255"
        if self._passed["test"]:
            notes.append(
                f"{self._passed['test']} labels of test frames passed over: those that are "
                "published hold no class"
            )
        return notes

    def _add(self, root: Path, path: Path) -> None:
        city, split = path.parent.name, path.parent.parent.name
        name = path.name.removesuffix(_IMAGE)
        if split not in ("train", "val", "test"):
            raise ConfigError(f"{path.parent.parent}: splits are train, val and test")
        folder = root / "gtFine" / split / city
        found = [folder / f"{name}_gtFine_{kind}.png" for kind in _LABELS]
        label = next((one for one in found if one.is_file()), None)
        if split == "test":
            self._passed["test"] += label is not None
            label = None
        elif label is None:
            needed = " or ".join(one.name for one in found)
            raise ConfigError(f"{path.relative_to(root)} has no label; needed: {folder}/{needed}")
        else:
            self._kinds[label.stem.rpartition("_")[2]] += 1
        self._images.append(path)
        self._labels.append(label)
        fold = {"train": "train", "val": "validation"}.get(split, "")
        self.frames.append(Frame(name, "test" if split == "test" else "train", city, fold))


def _train_ids() -> NDArray[np.uint8]:
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[list(_IDS)] = np.arange(len(_IDS))
    return table


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as opened:
            if opened.mode != "L":
                raise ConfigError(f"{path} has the mode {opened.mode}; needed: 8-bit grey")
            return np.asarray(opened)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
