"""What is wrong with the files of a frame, in words; entered only where something is."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.exits import is_typed
from engine.frames.kinds import Fault, FileKind, FrameReport, UnfitError
from engine.labels import Table, likely_table
from engine.nyuv2 import CLASSES, IGNORE_INDEX

_SIGNATURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_SIGNATURES |= {b"BM": "BMP", b"RIFF": "WebP"}


class DatasetError(ValueError):
    """A dataset that cannot be trained on; `str()` names every fault, and what may mend them."""

    def __init__(self, root: Path, faults: Sequence[Fault], hint: str = "") -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.file, fault.found)))
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        told = "\n  ".join([f"{count} in {root}:", *map(str, self.faults)])
        super().__init__(f"{told}\n{hint}" if hint else told)


def words(error: OSError | UnfitError) -> str:
    """What was found in place of a file; an error of disk or file server is raised as it is.

    That one is no fault of a dataset, and may be gone with the next try.
    """
    if isinstance(error, UnfitError):
        return str(error)
    if not is_typed(error):
        raise error
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


def label_fault(name: str, strays: Mapping[int, int], classes: int, table: Table) -> Fault:
    """Which values of a label, with their pixels, are no classes."""
    expected = f"0..{classes - 1} or {IGNORE_INDEX}"
    if table:
        expected = f"a value that data.label_map or data.ignore names, or {IGNORE_INDEX}"
    return Fault(name, strays_found(strays), expected)


def strays_found(strays: Mapping[int, int]) -> str:
    """Values of a label, by the pixels that have them."""
    values = sorted(strays)
    shown = ", ".join(map(str, values[:5])) + (", ..." if values[5:] else "")
    return f"label {shown} in {sum(strays.values())} pixels"


def label_hint(reports: Iterable[FrameReport], classes: Sequence[str]) -> str:
    """What to type where labels, read as they are, hold values that are no classes.

    Empty where they hold none.
    """
    strays, seen_C, ignored = set[int](), np.zeros(len(classes), bool), False
    for report in reports:
        strays.update(report.stray_labels)
        ignored |= report.ignored_pixels > 0
        if len(report.class_pixels) == len(seen_C):
            seen_C |= np.array(report.class_pixels) > 0
    if not strays:
        return ""
    values = {*strays, *np.flatnonzero(seen_C).tolist()} | ({IGNORE_INDEX} if ignored else set())
    shown = ", ".join(map(str, sorted(values)[:12])) + (", ..." if len(values) > 12 else "")
    told = f"the labels hold {shown} for {len(classes)} classes; "
    if tuple(classes) == CLASSES:
        told += "data.classes is that of NYU Depth v2; "
    return f"{told}if they are sound, type {likely_table(values, classes)}"
