"""The official file of NYU Depth v2, `nyu_depth_v2_labeled.mat`, read frame by frame.

MATLAB 7.3 is HDF5, where axes stand in reverse: an image is (3, W, H). N: frames.
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from engine.bring.nyuv2_tables import (
    CLASSES_40,
    official_split,
    published_tables,
    read_splits,
    with_mapping,
)
from engine.bring.opened import open_hdf5, refuse
from engine.bring.source import Frame, Pixels, state
from engine.nyuv2 import CLASSES, MILLIMETRES_PER_METRE

_DEPTHS = {"filled": "depths", "raw": "rawDepths"}

_TOGETHER = 32
"""Frames that are read at once, at most: of 640 x 480 they are 88 MB, of which two are kept."""

_NEEDED = "nyu_depth_v2_labeled.mat"


class _Frames:
    """An array of N frames; those that share chunks of the file are read together."""

    def __init__(self, array: Any) -> None:
        self._array = array
        # A chunk of several frames would be decompressed once for each.
        self._step = max(1, min(_TOGETHER, (array.chunks or (1,))[0]))
        self._blocks: dict[int, NDArray[Any]] = {}

    def __getitem__(self, number: int) -> NDArray[Any]:
        first = number - number % self._step
        if first not in self._blocks:
            # Threads that are a frame apart may be a block apart, too.
            for old in [*self._blocks][:-1]:
                del self._blocks[old]
            self._blocks[first] = self._array[first : first + self._step]
        frame: NDArray[Any] = self._blocks[first][number - first]
        return frame


class Nyuv2File:
    """The official file as a `Source`.

    Stems are the frames' numbers from 0, six digits. Metres become millimetres, rounded; what is no
    positive number, or beyond 16 bits, is missing.
    """

    def __init__(
        self, path: Path, count: int, depth: str, splits: Path | None, mappings: Sequence[Path]
    ) -> None:
        """Open it.

        Args:
            path: the file.
            count: of classes, 13, 40 or 894.
            depth: `filled` or `raw`.
            splits: a `splits.mat`; None: the official split.
            mappings: files of class tables in the place of the published ones.

        Raises:
            ConfigError: one of the files is another, broken, or does not fit.
            RuntimeError: h5py is not installed.
        """
        self._path, self._count = path, count
        tables = published_tables()
        for mapping in mappings:
            tables = with_mapping(tables, mapping)
        self._file = open_hdf5(path, _NEEDED)
        arrays = self._arrays(depth)
        self._images, self._depths, self._labels = map(_Frames, arrays)
        self._tables, self._names = tables, tables.names
        self._check_names()
        self._class_of = tables.of_label(count)
        total, scenes = len(arrays[0]), self._texts("scenes")
        trains = read_splits(splits, total) if splits else official_split(total)
        if len(scenes) != total:
            refuse(path, f"of {len(scenes)} scenes for {total} frames", _NEEDED)
        self.frames = [
            Frame(f"{number:06d}", "train" if is_train else "test", scene)
            for number, (is_train, scene) in enumerate(zip(trains, scenes, strict=True))
        ]
        made_of = {"file": state(path), "classes": count, "depth": depth}
        made_of["train"] = np.packbits(trains).tobytes().hex()
        self.made_of: Mapping[str, JsonValue] = {**made_of, "class_of": self._class_of.tolist()}
        self._lock, self._counts = threading.Lock(), Counter[str]()

    @property
    def data(self) -> Mapping[str, JsonValue]:
        """Classes; of the 894 labels the 40 classes are trained, as no config names so many."""
        if self._count == len(CLASSES):
            return {"classes": list(CLASSES)}
        if self._count == len(CLASSES_40):
            return {"classes": list(CLASSES_40)}
        class_of = self._tables.of_label(len(CLASSES_40)).tolist()
        label_map: dict[str, JsonValue] = {str(n): found for n, found in enumerate(class_of)}
        return {"classes": list(CLASSES_40), "label_map": {**label_map, "0": "ignore"}}

    def read(self, number: int) -> Pixels:
        """The pixels of a frame; ConfigError for a fault."""
        with self._lock:
            try:
                image, depth_m, label = (
                    each[number] for each in (self._images, self._depths, self._labels)
                )
            except OSError as error:
                refuse(self._path, f"broken at frame {number + 1} ({error})", _NEEDED)
        if (highest := int(label.max())) > len(self._names):
            told = f"label {highest} in frame {number + 1}"
            refuse(self._path, f"of another data set: {told}", f"labels 0 to {len(self._names)}")
        depth_HW = self._millimetres(depth_m.T)
        return Pixels(image.transpose(2, 1, 0), depth_HW, self._classes(label.T))

    def notes(self) -> list[str]:
        """Pixels without a class, without depth, and beyond its range."""
        counts, pixels = self._counts, self._counts["pixels"]
        if not pixels:
            return []
        kept = self._count > len(CLASSES_40)
        unlabelled = (
            f"{100 * counts['unlabelled'] / pixels:.1f} % of the pixels read are unlabelled"
        )
        notes = [f"{unlabelled}: {'0, which is no class here' if kept else '255'}"]
        if kept:
            notes.append(
                f"labels keep the file's numbers, 1 to {len(self._names)}, as 255 is one of them; "
                "dataset.toml trains on their 40 classes by data.label_map"
            )
        if counts["missing"]:
            share = 100 * counts["missing"] / pixels
            notes.append(f"{share:.1f} % of the pixels read have no depth: 0")
        if counts["far"]:
            notes.append(f"{counts['far']} pixels beyond 65.5 m have no depth: 0")
        return notes

    def _millimetres(self, depth_HW: NDArray[Any]) -> NDArray[np.uint16]:
        depth_mm = np.rint(depth_HW.astype(np.float64) * MILLIMETRES_PER_METRE)
        known = depth_mm > 0  # of NaN it is false
        far = depth_mm > np.iinfo(np.uint16).max
        with self._lock:
            self._counts["pixels"] += depth_mm.size
            self._counts["far"] += int(far.sum())
            self._counts["missing"] += int((~known).sum())
        return np.where(known & ~far, depth_mm, 0).astype(np.uint16)

    def _classes(self, label_HW: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        with self._lock:
            self._counts["unlabelled"] += int((label_HW == 0).sum())
        found_HW: NDArray[np.uint16] = self._class_of[label_HW]
        return found_HW if self._count > len(CLASSES_40) else found_HW.astype(np.uint8)

    def _arrays(self, depth: str) -> list[Any]:
        """Images, depths and labels, of one number of frames and one size."""
        arrays: list[Any] = []
        for name, ranks, kinds in (
            ("images", 4, "u"),
            (_DEPTHS[depth], 3, "f"),
            ("labels", 3, "u"),
        ):
            array = self._variable(name)
            found = f"{name} of {array.shape}, {array.dtype}"
            shape = array.shape[:1] + array.shape[-2:]
            axes = "(N, 3, W, H)" if ranks == 4 else "(N, W, H)"
            first = arrays[0].shape[:1] + arrays[0].shape[-2:] if arrays else shape
            if array.ndim != ranks or (ranks == 4 and array.shape[1] != 3) or not array.size:
                refuse(self._path, f"of {found}", f"{_NEEDED}, whose {name} are {axes} in HDF5")
            if array.dtype.kind != kinds or (ranks == 4 and array.dtype.itemsize != 1):
                needed = {"images": "uint8", "labels": "uint16"}.get(name, "single")
                refuse(self._path, f"of {found}", f"{_NEEDED}, whose {name} are {needed}")
            if shape != first:
                refuse(self._path, f"of {found}, and images of {arrays[0].shape}", _NEEDED)
            arrays.append(array)
        return arrays

    def _variable(self, name: str) -> Any:
        import h5py

        found = self._file.get(name)
        if not isinstance(found, h5py.Dataset):
            named = ", ".join(sorted(key for key in self._file if key[0] != "#")) or "nothing"
            refuse(self._path, f"without {name} (it holds {named})", _NEEDED)
        return found

    def _texts(self, name: str) -> list[str]:
        """A cell array of texts: references to arrays of UTF-16 units."""
        found = self._variable(name)
        try:
            units = [self._file[reference] for reference in found[()].ravel()]
            # Of an empty text MATLAB stores the size.
            return [
                ""
                if one.attrs.get("MATLAB_empty", 0)
                else np.asarray(one[()], "<u2").tobytes().decode("utf-16-le")
                for one in units
            ]
        except (OSError, ValueError, TypeError, AttributeError, UnicodeDecodeError):
            told = f"{name} of {found.shape}, {found.dtype}"
            refuse(self._path, f"of {told}", f"{_NEEDED}, whose {name} are a cell array of texts")

    def _check_names(self) -> None:
        """The names of labels are those that the tables speak of."""
        found = self._texts("names")
        if found == list(self._names):
            return
        if len(found) != len(self._names):
            refuse(self._path, f"of {len(found)} names of labels", f"{len(self._names)}")
        pairs = zip(found, self._names, strict=True)
        number = next(n for n, (one, other) in enumerate(pairs, start=1) if one != other)
        told = f"label {number} is {found[number - 1]!r}"
        refuse(self._path, f"of other labels: {told}", f"{self._names[number - 1]!r}")
