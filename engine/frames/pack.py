"""A dataset is written into shards: `prepare shard`. One that was stopped goes on with the next."""

import hashlib
import logging
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from engine import sums
from engine.frames.cache import GIB
from engine.frames.dataset import SHARDS, Progress
from engine.frames.faults import DatasetError
from engine.frames.files import FrameList
from engine.frames.index import list_dataset
from engine.frames.kinds import KINDS
from engine.frames.labelled import with_labels
from engine.frames.shards import (
    Shard,
    ShardIndex,
    Shards,
    shard_key,
    state_of,
)
from engine.full_disk import DiskFullError
from engine.lease import Place, hold
from engine.mistakes import ConfigError
from engine.whole import whole_file, write_summed

_log = logging.getLogger(__name__)

SHARD_BYTES = 256 * 1000**2
"""About so many bytes are in a shard, as in those that are published; the last has fewer."""

_BLOCK = tarfile.BLOCKSIZE


def pack_dataset(
    root: Path, out: Path, *, shard_bytes: int = SHARD_BYTES, progress: Progress | None = None
) -> Shards:
    """Write a dataset folder into shards; what an earlier call finished is not written again.

    Files are taken as they are; what they hold, a check says. The manifest comes last: without it
    `out` is no dataset. The same files give the same shards.

    Args:
        root: the dataset, as for `load_dataset`, with labels of test frames if there are any.
        out: folder to create or complete.
        shard_bytes: about so many are in a shard.
        progress: called after each shard with the frames that are written.

    Raises:
        ConfigError: `root` is in shards, or `out` holds something else.
        DatasetError: files are missing.
        DiskFullError: there is no room.
        HeldError: another process writes there.
    """
    if (root / SHARDS).is_file():
        raise ConfigError(f"{root} is in shards already; name the plain folder")
    if out.exists() and not (out.is_dir() and all(_is_ours(path) for path in out.iterdir())):
        raise ConfigError(f"{out} holds something else; name a new folder")
    lists = _lists(root)
    total, done, shards = sum(map(len, lists.values())), 0, list[Shard]()
    sizes = {name: [*_sizes(frames)] for name, frames in lists.items()}
    with hold(Place(out, "shards", str(out), (out,))):
        needed = sum(map(sum, sizes.values()))
        there = sum(path.stat().st_size for path in out.glob("*.tar"))
        if (free := shutil.disk_usage(out).free) < needed - there + GIB:
            told = f"{out} has {free / GIB:.1f} GiB free for shards of {needed / GIB:.1f} GiB"
            raise DiskFullError(f"{told}, and 1 GiB to spare; name a folder on another disk")
        for split, frames in lists.items():
            for number, chosen in enumerate(_cut(sizes[split], shard_bytes)):
                path = out / f"{split}-{number:06d}.tar"
                shards.append(_shard(path, split, frames, chosen))
                done += len(chosen)
                if progress is not None:
                    progress(done, total)
        scenes = root / "scenes.csv"
        if scenes.is_file():
            write_summed(out / scenes.name, scenes.read_text(encoding="utf-8"))
        wanted = {each for shard in shards for each in (shard.name, _index_of(shard.name))}
        for path in [*out.glob("*-*.tar"), *out.glob("*-*.json")]:
            if path.name not in wanted:  # of more frames than there are now
                path.unlink()
        packed = Shards(
            frames={name: len(each) for name, each in lists.items()}, shards=tuple(shards)
        )
        packed.write(out / SHARDS)
    return packed


def _lists(root: Path) -> dict[str, FrameList]:
    train, test, _, faults = list_dataset(root, need_depth=False)
    if faults:
        raise DatasetError(root, faults)
    if (root / "test" / "label").is_dir():
        test = with_labels(root / "test" / "label", test, "they are packed too")
    return {"train": train, "test": test}


def _sizes(frames: FrameList) -> Iterator[int]:
    """Bytes of each frame in a tar."""
    for files in frames:
        yield sum(_BLOCK + _padded(path.stat().st_size) for path in files.present.values())


def _cut(sizes: Sequence[int], shard_bytes: int) -> Iterator[range]:
    """Frames of each shard: as many as fit, and at least one."""
    first = filled = 0
    for frame, size in enumerate(sizes):
        if frame > first and filled + size > shard_bytes:
            yield range(first, frame)
            first, filled = frame, 0
        filled += size
    if first < len(sizes):
        yield range(first, len(sizes))


def _shard(path: Path, split: str, frames: FrameList, chosen: range) -> Shard:
    """Write a shard and its index, unless they are there and of the same files."""
    index_path, source = path.with_suffix(".json"), state_of(frames, chosen)
    if index_path.is_file() and path.is_file():
        try:
            if ShardIndex.read(index_path).source == source and sums.check(path, anew=True):
                return _told(path, split, len(chosen), _hash(path))
            _log.info("%s: made again, its files have changed", path)
        except ValueError as error:  # DamageError is one
            _log.warning("%s; it is made again", error)
    lists: dict[str, dict[str, list[int]]] = {
        name: {kind: [] for kind in KINDS} for name in ("offsets", "sizes")
    }
    with whole_file(path, summed=True) as temporary, temporary.open("wb") as stream:
        digest = _write(stream, split, frames, chosen, lists)
    if state_of(frames, chosen) != source:
        raise RuntimeError(f"files of {path.name} changed while it was written; run it again")
    endings = {kind: [frames.ending(kind, frame) for frame in chosen] for kind in KINDS}
    stems = [frames.stems[frame] for frame in chosen]
    # The index last: a shard without it is written again.
    ShardIndex(source=source, stems=stems, endings=endings, **lists).write(index_path)
    return _told(path, split, len(chosen), digest)


def _write(
    stream: BinaryIO,
    split: str,
    frames: FrameList,
    chosen: range,
    lists: dict[str, dict[str, list[int]]],
) -> str:
    """Write the tar of some frames and note where their files lie; returns its SHA-256."""
    digest, at = hashlib.sha256(), 0
    for frame in chosen:
        files = frames[frame]
        for kind in KINDS:
            path = files.present.get(kind)
            if path is None:
                lists["offsets"][kind].append(0)
                lists["sizes"][kind].append(0)
                continue
            content = path.read_bytes()
            # Time, owner and mode are the same for all: the same files make the same shard.
            info = tarfile.TarInfo(f"{split}/{shard_key(files.stem)}.{kind}{path.suffix.lower()}")
            info.size = len(content)
            head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            lists["offsets"][kind].append(at + len(head))
            lists["sizes"][kind].append(len(content))
            for part in (head, content, bytes(_padded(len(content)) - len(content))):
                digest.update(part)
                at += stream.write(part)
    end = bytes(2 * _BLOCK)
    digest.update(end)
    stream.write(end)
    return digest.hexdigest()


def _told(path: Path, split: str, frames: int, sha256: str) -> Shard:
    index = _hash(path.with_suffix(".json"))
    size = path.stat().st_size
    return Shard(
        name=path.name, split=split, frames=frames, size=size, sha256=sha256, index_sha256=index
    )


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _index_of(name: str) -> str:
    return Path(name).with_suffix(".json").name


def _is_ours(path: Path) -> bool:
    """Whether a file is one that this command leaves, whole or half-made."""
    hidden = path.name[0] == "."
    return hidden or path.name in (SHARDS, "scenes.csv") or path.suffix in (".tar", ".json")
