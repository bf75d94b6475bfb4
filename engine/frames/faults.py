"""What is wrong with the files of a frame, in words; entered only where something is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.frames.kinds import Fault, FileKind, UnfitError
from engine.nyuv2 import IGNORE_INDEX

_SIGNATURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_SIGNATURES |= {b"BM": "BMP", b"RIFF": "WebP"}


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
    kinds = [kind for start, kind in _SIGNATURES.items() if content.startswith(start)]
    if not kinds:
        return f"a file of another kind (it starts with {content[:8]!r})"
    return f"a broken or truncated {kinds[0]} ({error})"


def changed(path: Path, kind: FileKind, hw: tuple[int, int], error: OSError | UnfitError) -> str:
    """What a file is that is not what a check found: of the kind and of height and width `hw`."""
    needed = f"{kind.expected} of {hw[1]} x {hw[0]} pixels; restore the file"
    return f"{path}: found {words(error)}; expected {needed}"


def size_faults(
    names: Mapping[str, str], sizes: Mapping[str, tuple[int, int]], orientation: int
) -> list[Fault]:
    """Files of a frame that are not of the first one's size, by kind.

    An image that was turned upright from its EXIF `orientation`, and had their size before, is the
    one that does not fit.
    """
    first, size = next(iter(sizes.items()))
    others = {hw for kind, hw in sizes.items() if kind != "image"}
    if orientation > 1 and others == {size[::-1]}:
        upright, stored = (f"{w} x {h}" for h, w in (size, size[::-1]))
        turned = f"pixels once turned upright (EXIF orientation {orientation})"
        maps = " and ".join(name for kind, name in names.items() if kind != "image")
        expected = f"{stored}, the size of {maps}; data.exif = 'ignore' leaves images as stored"
        return [Fault(names["image"], f"{upright} {turned}, {stored} as stored", expected)]
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
