"""What is wrong with a dataset, in words; entered only where something is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.frames.decode import KINDS, Fault, FileKind, FrameFiles, UnfitError
from engine.nyuv2 import IGNORE_INDEX
from kernels.png import PngHeader

_JPEG_SIGNATURE = b"\xff\xd8\xff"


class DatasetError(ValueError):
    """A dataset that cannot be trained on; `str()` names every fault."""

    def __init__(self, root: Path, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.file, fault.found)))
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__("\n  ".join([f"{count} in {root}:", *map(str, self.faults)]))


def words(error: OSError | UnfitError) -> str:
    """What was found in place of a file."""
    if isinstance(error, UnfitError):
        return str(error)
    return f"a file that cannot be read ({error.strerror})"


def unreadable(content: bytes, error: Exception) -> str:
    """What a file is that no decoder reads, with what Pillow said of it."""
    if not content:
        return "an empty file (0 bytes)"
    is_png = PngHeader.of(content) is not None
    if not is_png and not content.startswith(_JPEG_SIGNATURE):
        return f"a file that is neither PNG nor JPEG (it starts with {content[:8]!r})"
    return f"a broken or truncated {'PNG' if is_png else 'JPEG'} ({error})"


def unfit(content: bytes, found: str, kind: FileKind, end: bytes) -> str:
    """What a file is that was decoded, but is of another kind or does not end with its picture."""
    if found not in kind.found:
        return f"{'an' if found.startswith('8') else 'a'} {found}"
    after = len(content) - content.rfind(end) - len(end)
    return f"{after} bytes after the end of the picture" if end in content else "no end marker"


def size_faults(names: Mapping[str, str], sizes: Mapping[str, tuple[int, int]]) -> list[Fault]:
    """Files of a frame that are not of the first one's size, by kind."""
    first, size = next(iter(sizes.items()))
    faults = []
    for kind, hw in sizes.items():
        found, expected = (f"{w} x {h} pixels" for h, w in (hw, size))
        if hw != size:
            faults.append(Fault(names[kind], found, f"{expected}, the size of {names[first]}"))
    return faults


def label_fault(name: str, counts: NDArray[Any], classes: int) -> Fault:
    """Which values of a label are no classes; `counts` are its pixels by value, 256 numbers."""
    strays = [value for value in np.flatnonzero(counts) if classes <= value != IGNORE_INDEX]
    shown = ", ".join(str(value) for value in strays[:5]) + (", ..." if strays[5:] else "")
    found = f"label {shown} in {int(counts[strays].sum())} pixels"
    return Fault(name, found, f"0..{classes - 1} or {IGNORE_INDEX}")


def listing_faults(
    root: Path, folders: Mapping[str, Path], frames: Sequence[FrameFiles], *, strays: bool
) -> list[Fault]:
    """What keeps the frames of some folders, by kind, from being complete and all there is.

    Args:
        root: what names in faults are relative to.
        folders: what was listed; entries whose names begin with a dot do not count.
        frames: those that were found in them.
        strays: whether files of other types are no faults.
    """
    faults = []
    for kind, folder in folders.items():
        name, suffixes = folder.relative_to(root).as_posix(), KINDS[kind].suffixes
        taken = {files.stem: files.present[kind] for files in frames if kind in files.present}
        faults += _folder_faults(name, folder, kind, taken, strays)
        # An empty folder is one fault by itself, not one for every frame.
        for files in frames if taken else ():
            if files.stem not in taken:
                partner = next(iter(files.present.values())).relative_to(root).as_posix()
                file = f"{name}/{files.stem}{'|'.join(suffixes)}"
                faults.append(Fault(file, "no such file", f"the {kind} of {partner}"))
    return faults


def _folder_faults(
    name: str, folder: Path, kind: str, taken: Mapping[str, Path], strays: bool
) -> list[Fault]:
    """What is in one folder besides the files that were taken, by stem, or that nothing is."""
    suffixes, faults = KINDS[kind].suffixes, []
    endings = " or ".join(suffixes)
    needed = f"a folder of {endings} files"
    if not folder.is_dir():
        return [Fault(name, "no such folder", needed)]
    for path in sorted(set(folder.glob("[!.]*")) - set(taken.values())):
        file = f"{name}/{path.name}"
        if path.suffix.lower() in suffixes and path.is_file():
            other = taken[path.stem].name
            faults.append(Fault(file, f"a second {kind} of its stem, beside {other}", "one"))
        elif not strays:
            ending = f"a file ending in {path.suffix or path.name!r}"
            what = "a folder" if path.is_dir() else ending
            faults.append(Fault(file, what, f"only {endings} files"))
    if not taken and not faults:
        faults.append(Fault(name, "no such file in it" if strays else "an empty folder", needed))
    return faults
