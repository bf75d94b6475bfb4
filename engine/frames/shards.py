"""A dataset in shards: tar files of about 256 MB, which WebDataset and `tar` read as they are.

    ROOT/ shards.json               the shards: sizes and checksums
          train-000000.tar ...      train/STEM.image.jpg, train/STEM.depth.png, train/STEM.label.png
          train-000000.json ...     where each file of the shard lies
          test-000000.tar ...       scenes.csv

Frames stand in the order of their stems, and each is read by its offset: folds, draws, and all that
follows from them are those of the plain folder, byte by byte. A point in a stem is written `%2E`,
because WebDataset's keys end at the first one.

N: frames. K: kinds of files.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.frames.dataset import SHARDS
from engine.frames.faults import DatasetError
from engine.frames.files import STATE, FrameList
from engine.frames.kinds import KINDS, Fault
from engine.frames.packed import Packed, Span
from engine.rundir import Record


class Shard(Record):
    """One shard of a dataset."""

    name: str
    """Of the tar; its index has the ending `json`."""
    split: str
    frames: int
    size: int
    """Bytes of the tar."""
    sha256: str
    """Of the tar."""
    index_sha256: str
    """Of the file that says where its frames lie."""


class Shards(Record):
    """`shards.json`: a dataset in shards, which is whole."""

    frames: dict[str, int]
    """By split."""
    shards: tuple[Shard, ...]


class ShardIndex(Record):
    """Where the files of a shard lie; lists have an entry a frame."""

    source: str
    """Hash of names, sizes and times of the files that it was made of."""
    stems: list[str]
    endings: dict[str, list[str]]
    """By kind; empty without a file."""
    offsets: dict[str, list[int]]
    """By kind, of the first byte."""
    sizes: dict[str, list[int]]
    """By kind, bytes."""


@dataclass(frozen=True, eq=False)
class ShardList(FrameList):
    """Frames that lie in shards; their folders are those that they would have."""

    shards: tuple[Path, ...] = ()
    shard_N: NDArray[np.int32] | None = None
    """(N,) which shard a frame lies in."""
    span_NK2: NDArray[np.int64] | None = None
    """(N, K, 2) first byte and bytes of each file."""

    def path(self, kind: str, frame: int) -> Path | None:
        """A file, None if there is none."""
        path = super().path(kind, frame)
        if path is None or self.shard_N is None or self.span_NK2 is None:
            return None
        offset, size = self.span_NK2[frame, tuple(KINDS).index(kind)].tolist()
        return Packed.at(path, Span(self.shards[self.shard_N[frame]], offset, size))

    def states(self, settled_ns: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """As of files: each has the times and the inode of its shard, and its place in it."""
        assert self.shard_N is not None
        assert self.span_NK2 is not None
        state_NK4 = np.zeros((len(self), len(KINDS), STATE), np.int64)
        told = [shard.stat() for shard in self.shards]
        times = np.array([(one.st_mtime_ns, one.st_ctime_ns) for one in told]).reshape(-1, 2)
        state_NK4[:, :, :2] = self.span_NK2
        state_NK4[:, :, 2] = times.max(axis=1, initial=0)[self.shard_N, None]
        inodes = np.array([one.st_ino & (2**63 - 1) for one in told], np.int64)
        state_NK4[:, :, 3] = inodes[self.shard_N, None]
        return state_NK4, times.max(axis=1, initial=0)[self.shard_N] < settled_ns


def list_dataset_in_shards(
    root: Path, faults: list[Fault], *, need_depth: bool
) -> dict[str, ShardList] | None:
    """As `list_shards`, with a fault where depth is needed and lacks; None: there are no shards.

    Raises DatasetError, too, if packing was stopped.
    """
    if not (root / SHARDS).is_file():
        if any(root.glob("train-*.tar")):
            expected = "the end of prepare shard, which goes on where it was stopped"
            raise DatasetError(root, [Fault(SHARDS, "no such file beside shards", expected)])
        return None
    lists = list_shards(root)
    for name, frames in lists.items():
        if need_depth and frames.count("depth") < len(frames):
            found = f"depth maps of {frames.count('depth')} of {len(frames)} {name} frames"
            faults.append(Fault(SHARDS, found, "one of each; pack a dataset that has them"))
    return lists


def list_shards(root: Path) -> dict[str, ShardList]:
    """The frames of `train` and `test` by the manifest; no shard is opened.

    Raises DatasetError: manifest or index are damaged, or shards are lost or of another size.
    """
    faults: list[Fault] = []
    try:
        manifest = Shards.read(root / SHARDS)
        lists = {split: _read_split(root, manifest, split) for split in ("train", "test")}
    except (OSError, ValueError) as error:
        raise DatasetError(root, [Fault(SHARDS, str(error), "what was written")]) from error
    for shard in manifest.shards:
        path = root / shard.name
        size = path.stat().st_size if path.is_file() else None
        if size != shard.size:
            found = "no such file" if size is None else f"{size} bytes"
            again = "the rest of it; delete it and run prepare shard again"
            faults.append(Fault(shard.name, found, f"{shard.size} bytes: copy {again}"))
    if faults:
        raise DatasetError(root, faults)
    return lists


def _read_split(root: Path, manifest: Shards, split: str) -> ShardList:
    parts = [shard for shard in manifest.shards if shard.split == split]
    stems: list[str] = []
    endings: dict[str, list[str]] = {kind: [] for kind in KINDS}
    spans, numbers = [np.zeros((0, len(KINDS), 2), np.int64)], []
    for number, shard in enumerate(parts):
        path = (root / shard.name).with_suffix(".json")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != shard.index_sha256:
            raise ValueError(f"{path.name} is not that of {SHARDS}")
        index = ShardIndex.parse(content, path)
        stems += index.stems
        numbers += [number] * len(index.stems)
        for kind in KINDS:
            endings[kind] += index.endings[kind]
        pairs = [(index.offsets[kind], index.sizes[kind]) for kind in KINDS]
        spans.append(np.array(pairs, np.int64).transpose(2, 0, 1))
    if stems != sorted(set(stems)) or len(stems) != manifest.frames.get(split, 0):
        raise ValueError(f"its shards do not hold the {split} frames in order")
    return _list(
        root / split, stems, endings, [root / shard.name for shard in parts], numbers, spans
    )


def _list(
    folder: Path,
    stems: Sequence[str],
    endings: Mapping[str, Sequence[str]],
    shards: Sequence[Path],
    numbers: Sequence[int],
    spans: Sequence[NDArray[np.int64]],
) -> ShardList:
    plain = FrameList.of({}, {})
    known = tuple(sorted({one for each in endings.values() for one in each} - {""}))
    code = {ending: number for number, ending in enumerate(known)} | {"": plain.ABSENT}
    held = {kind: bytes(code[one] for one in each) for kind, each in endings.items() if any(each)}
    return ShardList(
        {kind: folder / kind for kind in held},
        stems,
        held,
        known,
        tuple(shards),
        np.array(numbers, np.int32),
        np.concatenate(spans),
    )


def shard_key(stem: str) -> str:
    """A stem as WebDataset's key: without a point."""
    return stem.replace("%", "%25").replace(".", "%2E")


def state_of(frames: FrameList, chosen: Sequence[int]) -> str:
    """Hash of names, sizes and times of the files of some frames."""
    digest = hashlib.sha256()
    for frame in chosen:
        for path in frames[frame].present.values():
            told = os.stat(path)  # noqa: PTH116
            digest.update(f"{path.name}\0{told.st_size}\0{told.st_mtime_ns}\n".encode())
    return digest.hexdigest()
