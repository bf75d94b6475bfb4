"""A copy of a dataset, pixel by pixel the same, that decodes faster.

PNGs are written in the form that is measured to decode fastest here (`engine.frames.race`), one for
each sort of file. What gains nothing by that is copied, and so are JPEGs, which nothing that is
installed rewrites without a loss, and all else.
"""

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.frames import faults
from engine.frames.cache import GIB
from engine.frames.dataset import ENCODED, Progress
from engine.frames.decode import FrameFiles, in_order
from engine.frames.encoded import Encoded, originals_of
from engine.frames.index import DatasetError, list_dataset
from engine.frames.kinds import KINDS, Fault, Origin, UnfitError
from engine.frames.race import Choice, choose_form, decode_seconds, pixels_of, spread
from engine.frames.recode import FORMS, Form, rewritten
from engine.full_disk import DiskFullError, refuse_full
from engine.lease import Place, attempt_folder, hold
from engine.whole import sync_folder
from kernels.png import PngHeader

_log = logging.getLogger(__name__)

_HEAD = 33
"""Bytes of a PNG that hold its header."""


class Group(NamedTuple):
    """One sort of files."""

    kind: str
    """Of `KINDS`."""
    encoding: str
    """In words: `16-bit grey PNG`, `JPEG`."""


@dataclass(frozen=True)
class Outcome:
    """What became of the files of a group."""

    group: Group
    form: Form | None
    """That they were given; None: they were copied."""
    files: int
    kept: int
    """Files that were copied all the same, because they do not fit the form."""
    bytes_before: int
    bytes_after: int
    seconds_before: float
    """To read one, from memory, and decode it: the median of a sample."""
    seconds_after: float


def encode_dataset(
    root: Path, out: Path, *, workers: int, progress: Progress | None = None
) -> list[Outcome]:
    """Write a copy of a dataset folder that decodes faster; `out` appears whole or not at all.

    Frames, names, values, palettes, EXIF and fingerprint are the original's: every file that is
    written anew is read and decoded again, and compared, before it counts. What the engine does not
    read is not copied.

    Args:
        root: the dataset, as for `load_dataset`.
        out: folder to create.
        workers: decoding threads.
        progress: called after each frame.

    Returns:
        What became of each group of files, with both times measured in turns.

    Raises:
        FileNotFoundError: there is no `root`.
        ValueError: `out` exists or lies in `root`.
        DatasetError: the dataset has a fault; not all are looked for.
        DiskFullError: there is no room for the copy.
        HeldError: another process writes it.
    """
    _refuse(root, out)
    frames = _frames(root)
    with hold(Place(out.parent, out.name, str(out), (out,))):
        _refuse(root, out)
        # By its suffix nobody goes on from it: a copy that was stopped is begun anew.
        part = attempt_folder(out) / "copy.tmp"
        try:
            part.mkdir()
            copy = _Copy.chosen(root, part, frames)
            written = copy.write(frames, workers, progress)
        except OSError as error:
            refuse_full(error, attempt_folder(out) / "probe.tmp", out)
            raise
        if _names(root) != _names(part):
            raise RuntimeError(f"{root} changed while it was copied; run the command again")
        os.sync()  # what gets its name is on disk: one wait for all files
        part.rename(out)
        sync_folder(out.parent)
    return [_timed(root, out, group, each) for group, each in written.items()]


@dataclass(frozen=True)
class _Written:
    """A file of the copy."""

    path: Path
    """Of the original."""
    size: int
    form: Form | None
    """None: it was copied."""
    digests: dict[str, str]
    """Of a file that was written anew, and of what it was made of."""


@dataclass(frozen=True)
class _Copy:
    """A copy that is written."""

    root: Path
    part: Path
    """Where it is written."""
    groups: Mapping[Path, Group]
    """Of each file of the original."""
    forms: Mapping[Group, Form | None]

    @classmethod
    def chosen(cls, root: Path, part: Path, frames: Sequence[FrameFiles]) -> "_Copy":
        """One in the fastest forms that there is room for."""
        of_group: dict[Group, list[Path]] = defaultdict(list)
        for files in frames:
            for kind, path in files.present.items():
                of_group[Group(kind, _encoding(path))].append(path)
        groups = {path: group for group, paths in of_group.items() for path in paths}
        samples = {
            group: [_decoded(root, path, group.kind).content for path in spread(paths)]
            for group, paths in of_group.items()
        }
        sizes = {group: sum(p.stat().st_size for p in each) for group, each in of_group.items()}
        free, needed = shutil.disk_usage(part).free, 0.0
        for forms in (FORMS, [form for form in FORMS if form.level]):
            choices: dict[Group, Choice] = {
                group: choose_form(group.kind, contents, forms, part)
                for group, contents in samples.items()
            }
            needed = sum(choices[group].growth * size for group, size in sizes.items())
            if needed + GIB <= free:
                return cls(root, part, groups, {g: choice.form for g, choice in choices.items()})
        raise DiskFullError(
            f"{free / GIB:.1f} GiB are free for a copy that takes {needed / GIB:.1f} GiB, and 1 "
            "GiB to spare; name a folder on another disk"
        )

    def write(
        self, frames: Sequence[FrameFiles], workers: int, progress: Progress | None
    ) -> dict[Group, list[_Written]]:
        """Write all of it."""
        for folder in {self._place(path).parent for path in self.groups}:
            folder.mkdir(parents=True)
        known = originals_of(self.root)
        digests, written = dict(known), defaultdict[Group, list[_Written]](list)
        with closing(in_order(self._frame, frames, workers)) as copied:
            for number, files in enumerate(copied):
                for one in files:
                    written[self.groups[one.path]].append(one)
                    # Of a copy's copy the first original.
                    digests |= {new: known.get(old, old) for new, old in one.digests.items()}
                if progress is not None:
                    progress(number + 1, len(frames))
        scenes = self.root / "scenes.csv"
        if scenes.exists():
            shutil.copyfile(scenes, self.part / scenes.name)
        Encoded(originals=digests).write(self.part / ENCODED)
        return written

    def _frame(self, files: FrameFiles) -> list[_Written]:
        return [self._file(path) for path in files.present.values()]

    def _file(self, path: Path) -> _Written:
        """Write a file and hold it to the original's pixels."""
        group, place = self.groups[path], self._place(path)
        if form := self.forms[group]:
            old, pixels, origin = _decoded(self.root, path, group.kind)
            if new := rewritten(old, form):
                place.write_bytes(new)
                new = place.read_bytes()
                if _is_same(group.kind, new, pixels, origin):
                    # The second one is what data.exif = "ignore" makes of it.
                    read_as = origin, replace(origin, orientation=1)
                    digests = {each.digest(new): each.digest(old) for each in read_as}
                    return _Written(path, len(new), form, digests)
                _log.info("%s: copied as it is; with %s it would not be the same", path, form)
        old = path.read_bytes()
        place.write_bytes(old)
        if place.read_bytes() != old:
            raise RuntimeError(f"{place} does not hold what was written; look after the disk")
        return _Written(path, len(old), None, {})

    def _place(self, path: Path) -> Path:
        return self.part / path.relative_to(self.root)


class _Decoded(NamedTuple):
    """A file of the original."""

    content: bytes
    pixels: NDArray[Any]
    origin: Origin


def _decoded(root: Path, path: Path, kind: str) -> _Decoded:
    """Read and decode a file; DatasetError if it cannot be."""
    content = path.read_bytes()
    try:
        return _Decoded(content, *pixels_of(kind, content))
    except UnfitError as error:
        fault = Fault(_name(path, root), faults.words(error), KINDS[kind].expected)
        raise DatasetError(root, [fault]) from error


def _is_same(kind: str, content: bytes, pixels: NDArray[Any], origin: Origin) -> bool:
    """Whether a file decodes to these pixels, and in the same way."""
    try:
        again, told = pixels_of(kind, content)
    except UnfitError:
        return False
    return told == origin and again.dtype == pixels.dtype and np.array_equal(again, pixels)


def _refuse(root: Path, out: Path) -> None:
    """Refuse a dataset that is not there, and a folder that cannot become its copy."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; name that of a dataset")
    if os.path.lexists(out):
        raise ValueError(f"{out} exists; name a new folder")
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{out} would lie in {root}, whose copy it is; name another folder")


def _frames(root: Path) -> list[FrameFiles]:
    """All frames of a dataset, test frames with their labels; DatasetError for a fault."""
    train, test, _, told = list_dataset(root, need_depth=False)
    if told:
        raise DatasetError(root, told)
    if (root / "test" / "label").is_dir():
        from engine.frames.labelled import with_labels

        test = with_labels(root / "test" / "label", test)
    return [*train, *test]


def _names(root: Path) -> tuple[list[str], dict[str, str], bool]:
    """What a dataset is listed as: its files, scenes, and whether there are faults."""
    train, test, scenes, told = list_dataset(root, need_depth=False)
    files = [path for each in (*train, *test) for path in each.present.values()]
    return [_name(path, root) for path in files], scenes, bool(told)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _encoding(path: Path) -> str:
    with path.open("rb") as stream:
        header = PngHeader.of(stream.read(_HEAD))
    ending = path.suffix.lower().removeprefix(".")
    return header.kind if header else {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())


def _timed(root: Path, out: Path, group: Group, written: Sequence[_Written]) -> Outcome:
    """What became of a group, with the time that its files take before and after."""
    anew = [one for one in written if one.form]
    sample = spread([one.path for one in anew or written])
    # The same bytes are timed once: two figures would differ by chance.
    sides = [sample, [out / path.relative_to(root) for path in sample]][: 2 if anew else 1]
    seconds = decode_seconds(group.kind, sides)
    return Outcome(
        group=group,
        form=anew[0].form if anew else None,
        files=len(written),
        kept=len(written) - len(anew) if anew else 0,
        bytes_before=sum(one.path.stat().st_size for one in written),
        bytes_after=sum(one.size for one in written),
        seconds_before=seconds[0],
        seconds_after=seconds[-1],
    )
