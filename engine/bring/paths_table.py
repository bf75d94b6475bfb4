"""A CSV of paths: image, and of depth, label, split, scene, fold and stem those that it has."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from engine.bring.depth_codes import read_depth, unturned
from engine.bring.opened import kind_of, refuse
from engine.bring.source import Frame, Pixels, state, states
from engine.frames.kinds import KINDS
from engine.mistakes import ConfigError

COLUMNS = ("image", "depth", "label", "split", "scene", "fold", "stem")

_SPLITS: dict[str, tuple[Literal["train", "test"], str]] = {
    "": ("train", ""),
    "train": ("train", "train"),
    "training": ("train", "train"),
    "val": ("train", "validation"),
    "valid": ("train", "validation"),
    "validation": ("train", "validation"),
    "test": ("test", ""),
}
"""Part of the folder, and fold, of what a column `split` may say."""


class PathsTable:
    """A CSV as a `Source`: files are copied as they are, but for depth in another code.

    Paths are relative to the CSV. Frames to validate lie in `train` too, and `splits.csv` says so.
    A frame is named by its stem, or by its image; where two images have one, by their folders too.
    """

    def __init__(self, path: Path, classes: Sequence[str], code: str) -> None:
        """Read the table and look whether all files are there.

        Args:
            path: the CSV.
            classes: names, in the order of label values; none: the folder does not name them.
            code: of the depth maps, one of `depth_codes.CODES`.

        Raises:
            ConfigError: the table has a fault, or a file of it is not there.
        """
        self._rows = _rows(path)
        self._code, self._folder = code, path.parent
        self._check_files(path)
        images = [Path(row["image"]) for row in self._rows]
        named = [row.get("stem", "") for row in self._rows]
        stems = [name or stem for name, stem in zip(named, _stems(images), strict=True)]
        self.frames = [
            _frame(path, number, stem, row)
            for number, (stem, row) in enumerate(zip(stems, self._rows, strict=True), start=2)
        ]
        if {frame.fold for frame in self.frames if frame.split == "train"} <= {"train", ""}:
            # Nothing is validated by itself: folds are cut.
            self.frames = [frame._replace(fold="") for frame in self.frames]
        self.made_of: Mapping[str, JsonValue] = {
            "table": state(path),
            "files": states(
                self._folder / row[k] for row in self._rows for k in KINDS if row.get(k)
            ),
            "code": code,
        }
        self.data: Mapping[str, JsonValue] = {"classes": list(classes)} if classes else {}

    def read(self, number: int) -> Pixels:
        """The files of a frame; ConfigError for a fault."""
        row = self._rows[number]
        image, depth, label = (
            self._folder / row[kind] if row.get(kind) else None for kind in KINDS
        )
        assert image is not None
        if depth is not None and self._code == "sunrgbd":
            return Pixels(image, unturned(read_depth(depth)), label)
        return Pixels(image, depth, label)

    def notes(self) -> list[str]:
        """Which depth maps were turned."""
        count = sum(1 for row in self._rows if row.get("depth"))
        return [f"{count} depth maps turned by three bits"] if self._code == "sunrgbd" else []

    def _check_files(self, path: Path) -> None:
        for number, row in enumerate(self._rows, start=2):
            for kind in KINDS:
                if not (name := row.get(kind)):
                    continue
                where = f"{path} line {number}: {kind} {name!r}"
                if Path(name).suffix.lower() not in KINDS[kind].suffixes:
                    raise ConfigError(f"{where}; needed: {' or '.join(KINDS[kind].suffixes)}")
                if not (self._folder / name).is_file():
                    raise ConfigError(f"{where}: no such file in {self._folder}")


def _rows(path: Path) -> list[dict[str, str]]:
    kind = kind_of(path)
    needed = f"a CSV whose header names {', '.join(COLUMNS)}, or some of them, image among them"
    if "another kind" not in kind:
        refuse(path, kind, needed)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True, strict=True)
            header = [name.strip().lower() for name in reader.fieldnames or ()]
            strange = [name for name in header if name not in COLUMNS]
            if strange or "image" not in header or len(set(header)) < len(header):
                refuse(path, f"of the columns {','.join(header)}", needed)
            reader.fieldnames = header
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        refuse(path, f"no CSV ({error})", needed)
    for number, row in enumerate(rows, start=2):
        if not row["image"]:
            raise ConfigError(f"{path} line {number} names no image")
    if not rows:
        refuse(path, "of a header alone", needed)
    return rows


def _frame(path: Path, number: int, stem: str, row: Mapping[str, str]) -> Frame:
    said = row.get("split", "").lower()
    if said not in _SPLITS:
        needed = ", ".join(name for name in _SPLITS if name)
        raise ConfigError(f"{path} line {number}: split {row['split']!r}; needed: {needed}")
    split, fold = _SPLITS[said]
    if split == "train" and not row.get("label"):
        raise ConfigError(f"{path} line {number}: a frame to train on has no label")
    return Frame(stem, split, row.get("scene", ""), row.get("fold", "") or fold)


def _stems(images: Sequence[Path]) -> list[str]:
    """Names of frames: of images that share theirs, with as many of their folders as it takes."""
    for depth in range(1, max(len(path.parts) for path in images) + 1):
        stems = ["_".join([*path.parts[-depth:-1], path.stem]) for path in images]
        if len(set(stems)) == len(stems):
            return stems
    return [path.stem for path in images]
