"""Which files a dataset folder has: stems joined over its folders, strays and gaps as faults."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.frames.frame_check import Fault, FrameFiles

_SUFFIXES = {"image": (".jpg", ".jpeg", ".png"), "depth": (".png",), "label": (".png",)}


def list_split(
    root: Path, split: str, required: Sequence[str], need_depth: bool, faults: list[Fault]
) -> list[FrameFiles]:
    """The frames of a split by stem; a missing partner, folder or odd file becomes a fault."""
    if need_depth:
        required = (*required, "depth")
    folders = {}
    for kind in ("image", "depth", "label"):
        folder = root / split / kind
        if kind == "label" and "label" not in required:
            continue
        if kind in required or folder.is_dir():
            folders[kind] = folder
    listed = {kind: list_folder(root, folder, kind, faults) for kind, folder in folders.items()}
    return join_stems(root, folders, listed, faults)


def join_stems(
    root: Path,
    folders: Mapping[str, Path],
    listed: Mapping[str, Mapping[str, Path]],
    faults: list[Fault],
) -> list[FrameFiles]:
    """One entry a stem; a missing partner is a fault."""
    frames = []
    for stem in sorted(set().union(*listed.values())):
        paths = {kind: found.get(stem) for kind, found in listed.items()}
        present = next(path for path in paths.values() if path is not None)
        for kind, path in paths.items():
            # An empty folder is one fault by itself, not one for every frame.
            if path is None and listed[kind]:
                expected = f"the {kind} of {present.relative_to(root).as_posix()}"
                endings = "|".join(_SUFFIXES[kind])
                name = f"{folders[kind].relative_to(root).as_posix()}/{stem}{endings}"
                faults.append(Fault(name, "no such file", expected))
        frames.append(FrameFiles(stem, paths.get("image"), paths.get("depth"), paths.get("label")))
    return frames


def list_folder(
    root: Path, folder: Path, kind: str, faults: list[Fault], *, strays: bool = False
) -> dict[str, Path]:
    """The files of one folder by stem.

    Args:
        root: what names in faults are relative to.
        folder: the folder to list.
        kind: image, depth or label.
        faults: extended by what is wrong.
        strays: pass over files of other types; otherwise each is a fault.
    """
    name = folder.relative_to(root).as_posix()
    expected = f"a folder of {' or '.join(_SUFFIXES[kind])} files"
    if not folder.is_dir():
        faults.append(Fault(name, "no such folder", expected))
        return {}
    found: dict[str, Path] = {}
    odd = False
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue  # Finder and file-sharing services leave such files.
        file = f"{name}/{path.name}"
        if path.suffix.lower() not in _SUFFIXES[kind] or not path.is_file():
            if strays:
                continue
            what = "a folder" if path.is_dir() else f"a file ending in {path.suffix or path.name!r}"
            faults.append(Fault(file, what, f"only {' or '.join(_SUFFIXES[kind])} files"))
            odd = True
        elif path.stem in found:
            other = found[path.stem].name
            faults.append(Fault(file, f"a second {kind} of its stem, beside {other}", "one"))
        else:
            found[path.stem] = path
    if not found and not odd:
        found_instead = "no such file in it" if strays else "an empty folder"
        faults.append(Fault(name, found_instead, expected))
    return found


def read_scenes(root: Path, faults: list[Fault]) -> dict[str, str]:
    """Scene by stem from scenes.csv; empty without that file."""
    path = root / "scenes.csv"
    if not path.exists():
        return {}
    scenes: dict[str, str] = {}
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
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        where = f"{path.name} line {number}"
        if len(cells) != 2 or not all(cells):
            faults.append(Fault(where, repr(",".join(row)), "a stem and its scene"))
        elif scenes.setdefault(cells[0], cells[1]) != cells[1]:
            faults.append(Fault(where, f"a second scene for {cells[0]}", "one scene a stem"))
    return scenes
