"""The files of very many frames, by their names: paths are made when they are asked for.

N: frames. K: kinds of files.
"""

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from engine.frames.decode import FrameFiles
from engine.frames.kinds import KINDS, is_hidden

STATE = 4
"""Numbers that say whether a file may have changed."""

_ABSENT = 255


@dataclass(frozen=True, eq=False)
class FrameList(Sequence[FrameFiles]):
    """The files of N frames of one folder a kind, sorted by stem; equal to a list of the same.

    Of each frame it keeps the stem and a byte a kind.
    """

    folders: Mapping[str, Path]
    """By kind."""
    stems: Sequence[str] = ()
    endings: Mapping[str, bytes] = field(default_factory=dict)
    """By kind, a byte a frame: number of its ending among `known`; 255 without a file."""
    known: tuple[str, ...] = ()

    @classmethod
    def of(cls, folders: Mapping[str, Path], names: Mapping[str, Iterable[str]]) -> "FrameList":
        """Frames of the files of these names, by kind; of several of a stem the first is taken."""
        taken = {kind: _by_stem(names.get(kind, ())) for kind in folders}
        known = tuple(sorted({ending for _, endings in taken.values() for ending in endings}))
        code = {ending: number for number, ending in enumerate(known)}
        if len(known) >= _ABSENT:  # of a handful of suffixes, each in any mixture of cases
            raise ValueError(f"{len(known)} spellings of file endings; give each kind one")
        stems: list[str] = next((each for each, _ in taken.values()), [])
        if all(each == stems for each, _ in taken.values()):
            # Mostly each stem has a file of each kind. Nothing is looked up: of very many strings,
            # which lie all over the memory, that would take longer for each the more they are.
            coded = {
                kind: bytes(code[ending] for ending in endings)
                for kind, (_, endings) in taken.items()
            }
            return cls(folders, stems, coded, known)
        stems = sorted(set().union(*(each for each, _ in taken.values())))
        coded = {}
        for kind, of_kind in taken.items():
            ending_of = dict(zip(*of_kind, strict=True))
            coded[kind] = bytes(
                code[ending_of[stem]] if stem in ending_of else _ABSENT for stem in stems
            )
        return cls(folders, stems, coded, known)

    def with_files(self, kind: str, folder: Path, names: Iterable[str]) -> "FrameList":
        """The same frames with the files of another kind, where there is one of a frame's stem."""
        named = dict(zip(*_by_stem(names), strict=True))
        known = tuple(dict.fromkeys((*self.known, *sorted(set(named.values())))))
        found = bytes(known.index(named[stem]) if stem in named else _ABSENT for stem in self.stems)
        folders, endings = {**self.folders, kind: folder}, {**self.endings, kind: found}
        return FrameList(folders, self.stems, endings, known)

    ABSENT: ClassVar = _ABSENT
    """In `endings`: there is no file."""

    def name(self, kind: str, frame: int) -> str | None:
        """The name of a file in its folder; None if there is none."""
        if kind not in self.endings or (code := self.endings[kind][frame]) == _ABSENT:
            return None
        return self.stems[frame] + self.known[code]

    def ending(self, kind: str, frame: int) -> str:
        """The ending of a file; empty if there is none."""
        code = self.endings[kind][frame] if kind in self.endings else _ABSENT
        return "" if code == _ABSENT else self.known[code]

    def path(self, kind: str, frame: int) -> Path | None:
        """A file, None if there is none."""
        name = self.name(kind, frame)
        return None if name is None else self.folders[kind] / name

    def count(self, kind: str) -> int:
        """Frames that have a file of a kind."""
        return len(self.stems) - self.endings.get(kind, b"\xff" * len(self.stems)).count(_ABSENT)

    def states(self, settled_ns: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """What tells of each file whether it may have changed: (N, K, 4) size, times and inode.

        And (N,) whether that can be said: not of a frame one of whose files cannot be looked at, or
        was written after `settled_ns`.
        """
        state_NK4 = np.zeros((len(self), len(KINDS), STATE), np.int64)
        sure_N = np.ones(len(self), np.bool_)
        for column, kind in enumerate(KINDS):
            folder = str(self.folders.get(kind, ""))
            for frame in range(len(self)):
                if (name := self.name(kind, frame)) is None:
                    continue
                try:
                    told = os.stat(f"{folder}/{name}")  # noqa: PTH116  # a path takes longer
                except OSError:  # whoever reads the file says what is wrong with it
                    sure_N[frame] = False
                    continue
                times = told.st_mtime_ns, told.st_ctime_ns
                sure_N[frame] &= max(times) < settled_ns
                # An inode may fill 64 bits.
                inode = told.st_ino & (2**63 - 1)
                state_NK4[frame, column] = told.st_size, *times, inode
        return state_NK4, sure_N

    def __len__(self) -> int:
        return len(self.stems)

    @overload
    def __getitem__(self, frame: int) -> FrameFiles: ...
    @overload
    def __getitem__(self, frame: slice) -> list[FrameFiles]: ...

    def __getitem__(self, frame: int | slice) -> FrameFiles | list[FrameFiles]:
        if isinstance(frame, slice):
            return [self[n] for n in range(*frame.indices(len(self)))]
        return FrameFiles(self.stems[frame], *(self.path(kind, frame) for kind in KINDS))

    def __iter__(self) -> Iterator[FrameFiles]:
        return (self[frame] for frame in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def files_in(folder: Path) -> dict[str, bool]:
    """Names in a folder, sorted, but for a system's own: is each a file, or a link to one?

    Raises OSError: it cannot be read, or what is in it not be looked at.
    """
    if not os.access(folder, os.X_OK) and folder.is_dir():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    # It knows the kinds of entries: none but links has to be looked at.
    with os.scandir(folder) as entries:
        found = {one.name: _is_file(one) for one in entries if not is_hidden(one.name)}
    # Sorted, and then copied in that order: who goes through very many names would else wait for
    # each, because they lie in memory as the system listed them.
    names = "/".join(sorted(found)).split("/") if found else []
    others = {name for name, is_file in found.items() if not is_file}
    return {name: name not in others for name in names}


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file or a link to one; a link that leads round in a ring is none."""
    try:
        return entry.is_file()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def split_name(name: str) -> tuple[str, str]:
    """Stem and ending of a file's name, as `pathlib` has them."""
    place = name.rfind(".")
    return (name[:place], name[place:]) if 0 < place < len(name) - 1 else (name, "")


def _by_stem(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Stems, sorted, and the ending of each, of several the first in the order of names."""
    parts = [split_name(name) for name in sorted(names)]
    stems = [stem for stem, _ in parts]
    if any(one >= next_ for one, next_ in pairwise(stems)):
        # A stem that begins another one, or has several files.
        ending_of: dict[str, str] = {}
        for stem, ending in parts:
            ending_of.setdefault(stem, ending)
        parts = sorted(ending_of.items())
        stems = [stem for stem, _ in parts]
    return stems, [sys.intern(ending) for _, ending in parts]
