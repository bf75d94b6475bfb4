"""Which files a dataset folder has: stems joined over its folders, strays and gaps as faults."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.nyuv2 import IGNORE_INDEX


class FileKind(NamedTuple):
    """What a file of a frame must be."""

    suffixes: tuple[str, ...]
    expected: str
    found: tuple[str, ...]
    """The encodings that are what is expected."""


KINDS = {
    "image": FileKind(
        (".jpg", ".jpeg", ".png"), "an 8-bit RGB JPEG or PNG", ("8-bit RGB JPEG", "8-bit RGB PNG")
    ),
    "depth": FileKind(
        (".png",), "a 16-bit grey PNG (millimetres, 0 = missing)", ("16-bit grey PNG",)
    ),
    "label": FileKind(
        (".png",),
        f"an 8-bit grey or indexed PNG (class index, {IGNORE_INDEX} = ignore)",
        ("8-bit grey PNG", "8-bit indexed PNG"),
    ),
}
"""The files of a frame, in the order of `engine.frames.decode.Frame`."""


@dataclass(frozen=True)
class FrameFiles:
    """The files of one stem; any of them may be absent."""

    stem: str
    image: Path | None
    depth: Path | None
    label: Path | None

    @property
    def present(self) -> dict[str, Path]:
        """Those that are there, by kind."""
        return {kind: path for kind in KINDS if (path := getattr(self, kind)) is not None}


@dataclass(frozen=True)
class Sample(FrameFiles):
    """One frame on disk that was found sound."""

    image: Path
    hw: tuple[int, int]
    """Height and width of its files, pixels (as stored: EXIF rotation is ignored)."""
    scene: str | None
    """From scenes.csv; None where that has no line for the stem."""
    digest: str = ""
    """SHA-256 over the content of its files; empty where nobody has read them all."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a dataset."""

    file: str
    """Path relative to the dataset's root."""
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}: found {self.found}; expected {self.expected}"


def list_dataset(
    root: Path, need_depth: bool, faults: list[Fault]
) -> tuple[list[FrameFiles], list[FrameFiles]]:
    """The frames of `train` and, if there is one, `test`, sorted by stem.

    A missing partner or folder and an odd file extend `faults`; depth may be absent unless needed.
    """

    def split(name: str, *kinds: str) -> list[FrameFiles]:
        folders = {kind: root / name / kind for kind in kinds}
        if not need_depth and not folders["depth"].is_dir():
            del folders["depth"]
        return list_frames(root, folders, faults)

    train = split("train", "image", "depth", "label")
    return train, split("test", "image", "depth") if (root / "test").is_dir() else []


def list_frames(
    root: Path, folders: Mapping[str, Path], faults: list[Fault], *, strays: bool = False
) -> list[FrameFiles]:
    """The frames of some folders, by kind; a missing partner is a fault.

    Files of other types are passed over with `strays`, and otherwise faults. Names in `faults`,
    which is extended, are relative to `root`.
    """
    listed: dict[str, dict[str, Path]] = {}
    for kind, folder in folders.items():
        listed[kind] = _list_folder(root, folder, kind, faults, strays)
    frames = []
    for stem in sorted(set().union(*listed.values())):
        files = FrameFiles(stem, *(listed.get(kind, {}).get(stem) for kind in KINDS))
        partner = next(iter(files.present.values())).relative_to(root).as_posix()
        for kind, folder in folders.items():
            # An empty folder is one fault by itself, not one for every frame.
            if listed[kind] and kind not in files.present:
                name = f"{folder.relative_to(root).as_posix()}/{stem}"
                file = name + "|".join(KINDS[kind].suffixes)
                faults.append(Fault(file, "no such file", f"the {kind} of {partner}"))
        frames.append(files)
    return frames


def read_scenes(path: Path, faults: list[Fault]) -> dict[str, str]:
    """The scene of each stem; none without the file. `faults` is extended by what is wrong."""
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        faults.append(Fault(path.name, f"an unreadable file ({error})", "UTF-8 CSV"))
        return {}
    if not rows or [cell.strip() for cell in rows[0]] != ["stem", "scene"]:
        found = f"the header {','.join(rows[0])!r}" if rows else "an empty file"
        faults.append(Fault(path.name, found, "the header 'stem,scene'"))
        return {}
    scenes: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        cells, where = [cell.strip() for cell in row], f"{path.name} line {number}"
        if any(cells) and (len(cells) != 2 or not all(cells)):
            faults.append(Fault(where, repr(",".join(row)), "a stem and its scene"))
        elif any(cells) and scenes.setdefault(cells[0], cells[1]) != cells[1]:
            faults.append(Fault(where, f"a second scene for {cells[0]}", "one scene a stem"))
    return scenes


def _list_folder(
    root: Path, folder: Path, kind: str, faults: list[Fault], strays: bool
) -> dict[str, Path]:
    """The files of one folder by stem."""
    name, suffixes = folder.relative_to(root).as_posix(), KINDS[kind].suffixes
    endings = " or ".join(suffixes)
    if not folder.is_dir():
        faults.append(Fault(name, "no such folder", f"a folder of {endings} files"))
        return {}
    found: dict[str, Path] = {}
    faults_before = len(faults)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue  # Finder and file-sharing services leave such files.
        file = f"{name}/{path.name}"
        if path.suffix.lower() not in suffixes or not path.is_file():
            if not strays:
                ending = f"a file ending in {path.suffix or path.name!r}"
                what = "a folder" if path.is_dir() else ending
                faults.append(Fault(file, what, f"only {endings} files"))
        elif path.stem in found:
            other = found[path.stem].name
            faults.append(Fault(file, f"a second {kind} of its stem, beside {other}", "one"))
        else:
            found[path.stem] = path
    if not found and len(faults) == faults_before:
        what = "no such file in it" if strays else "an empty folder"
        faults.append(Fault(name, what, f"a folder of {endings} files"))
    return found
