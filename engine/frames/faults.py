"""What is wrong with the files of a frame, in words; entered only where something is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.frames.kinds import Fault, FileKind, UnfitError
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


def changed(path: Path, kind: FileKind, hw: tuple[int, int], error: OSError | UnfitError) -> str:
    """What a file is that is not what a check found: of the kind and of height and width `hw`."""
    needed = f"{kind.expected} of {hw[1]} x {hw[0]} pixels; restore the file"
    return f"{path}: found {words(error)}; expected {needed}"


def size_faults(names: Mapping[str, str], sizes: Mapping[str, tuple[int, int]]) -> list[Fault]:
    """Files of a frame that are not of the first one's size, by kind."""
    first, size = next(iter(sizes.items()))
    faults = []
    for kind, hw in sizes.items():
        found, expected = (f"{w} x {h} pixels" for h, w in (hw, size))
        if hw != size:
            faults.append(Fault(names[kind], found, f"{expected}, the size of {names[first]}"))
    return faults


def label_fault(name: str, counts: NDArray[np.intp], classes: int) -> Fault:
    """Which values of a label are no classes; `counts` are its pixels by value, 256 numbers."""
    strays = [value for value in np.flatnonzero(counts) if classes <= value != IGNORE_INDEX]
    shown = ", ".join(str(value) for value in strays[:5]) + (", ..." if strays[5:] else "")
    found = f"label {shown} in {int(counts[strays].sum())} pixels"
    return Fault(name, found, f"0..{classes - 1} or {IGNORE_INDEX}")
