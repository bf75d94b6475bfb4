"""Checksums: `.NAME.sum` beside NAME holds the CRC-32 of each of its blocks.

A sum file is written before the file that it tells of gets its name, and tells of what stands there
until then as well: wherever a kill falls, the file fits one of these versions. It begins with a
checksum of its own, so that a damaged one is not taken for a damaged file. A file that has none,
being of an earlier release or the user's, is read as it is.

libdeflate's CRC-32 passes over 40 GiB a second of one core (zlib's over 2): a check costs no more
than reading the file, which its use does anyway.
"""

import errno
import io
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deflate import crc32

from engine.damage import DamageError

BLOCK_BYTES = 1 << 20
"""Bytes that a checksum is of: what is named as damaged."""

_PIECE_BYTES = 1 << 18
"""Bytes that are read at a time: 8.3 GiB/s on an Intel Xeon; by a MiB 7.7, by 32 KiB 6.9."""

SETTLED_NS = 2_000_000_000
"""A file that was written so long ago gets another time by another write, on every file system."""

_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
"""What may stand where a file was, in words."""

_checked: set[tuple[str, int, int, int, int]] = set()
"""Path, size, times and inode of what this process found sound: a stage may open a file often."""


@dataclass(frozen=True)
class Sums:
    """What a file holds: its size, and the CRC-32 of each of its blocks."""

    size: int
    first: int
    """Bytes of the first block: those of a header, where the others are items behind it."""
    block: int
    """Bytes of each other block, but for the last."""
    crc32: tuple[int, ...]

    def fault(self, stream: io.RawIOBase | io.BufferedIOBase) -> str | None:
        """Where a file differs from what was written; None if it does not. Reads it all."""
        size = stream.seek(0, os.SEEK_END)
        if size != self.size:
            return f"it has {size} bytes, {self.size} were written"
        stream.seek(0)
        start = 0
        lengths = [*_lengths(size, self.first, self.block)]
        for length, crc, found in zip(lengths, self.crc32, _crcs(stream, lengths), strict=True):
            if found != crc:
                return f"bytes {start} to {start + length - 1} are not those that were written"
            start += length
        return None

    def may_be(self, path: Path) -> bool:
        """Whether a file has this size and ends with this block; reads no more than that."""
        if path.stat().st_size != self.size:
            return False
        lengths = [*_lengths(self.size, self.first, self.block)]
        with path.open("rb") as stream:
            stream.seek(self.size - sum(lengths[-1:]))
            return not lengths or crc32(stream.read()) == self.crc32[-1]


def sum_file(path: Path) -> Path:
    """Where the checksums of a file stand."""
    return path.with_name(f".{path.name}.sum")


def sums_of(path: Path) -> Sums:
    """The checksums of a file as it is."""
    with path.open("rb", buffering=0) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        found = _crcs(stream, [*_lengths(size, BLOCK_BYTES, BLOCK_BYTES)])
        return Sums(size, BLOCK_BYTES, BLOCK_BYTES, tuple(found))


def expect(path: Path, coming: Sums, temporary: Path | None = None) -> None:
    """Write that `path` may be what is `coming` from now on; what stands there is sound as well.

    The sum file is made at `temporary`, or beside its own name.
    """
    try:
        known = _versions(path)
    except DamageError:
        known = None
    standing = []
    if path.exists():
        # A file without sums is as good as it is.
        standing = [sums_of(path)] if known is None else [v for v in known if v.may_be(path)]
    if known == [coming]:
        return
    content = json.dumps([asdict(version) for version in [*standing, coming]]).encode()
    target = sum_file(path)
    temporary = temporary or target.with_name(f"{target.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(b"%08x\n" % crc32(content) + content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        from engine.full_disk import refuse_full

        refuse_full(error, temporary, target, len(content))
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check(path: Path, *, anew: bool = False) -> bool:
    """Read a file and refuse damage; once a process while it is not written, unless `anew`.

    Returns whether there are checksums. Raises DamageError, or OSError as reading does.
    """
    told = _stat(path)
    state = str(path), told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino
    if state in _checked and not anew:
        return True

    def faults(versions: list[Sums]) -> list[str | None]:
        with path.open("rb", buffering=0) as stream:
            return [version.fault(stream) for version in versions]

    found = _refuse(path, faults)
    if found and max(told.st_mtime_ns, told.st_ctime_ns) < time.time_ns() - SETTLED_NS:
        _checked.add(state)
    return found


def read(path: Path, *, longer: bool = False) -> bytes:
    """The content of a file, checked if there are checksums; raises as `check`.

    With `longer` it may go on behind what was written.
    """
    content = b""

    def faults(versions: list[Sums]) -> list[str | None]:
        nonlocal content
        content = _read(path)
        # The one before it may well be its beginning, and would hide damage to the rest.
        newest = versions[-1]
        ends = (newest.size if longer and version is newest else None for version in versions)
        return [v.fault(io.BytesIO(content[:end])) for v, end in zip(versions, ends, strict=True)]

    return content if _refuse(path, faults) else _read(path)


def remove(path: Path) -> None:
    """Delete a file and its checksums, if they are there."""
    # In this order: a sum file that is alone tells of a file that is lost.
    for each in (sum_file(path), path):
        if each.exists():  # a disk that cannot be written refuses to delete even what is not there
            each.unlink(missing_ok=True)


def _stat(path: Path) -> os.stat_result:
    """What the system says of a file; DamageError if something else stands there."""
    try:
        told = path.stat()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DamageError(path, "it is a link that leads to itself") from error
    if not stat.S_ISREG(told.st_mode):
        # To open a pipe may take for ever.
        raise DamageError(path, f"it is a {_KINDS.get(stat.S_IFMT(told.st_mode), 'device')}")
    return told


def _read(path: Path) -> bytes:
    _stat(path)
    return path.read_bytes()


def _refuse(path: Path, faults: Callable[[list[Sums]], list[str | None]]) -> bool:
    """Raise what all versions of a file find wrong with it; whether there are any."""
    versions = _versions(path)
    while versions is not None:
        found = faults(versions)
        if None in found:
            return True
        before, versions = versions, _versions(path)
        if versions == before:  # else a writer was at work meanwhile
            raise DamageError(path, str(found[-1]))
    return False


def _versions(path: Path) -> list[Sums] | None:
    """What a file may hold, the newest last; None if nobody knows. Raises DamageError."""
    target = sum_file(path)
    try:
        digest, _, content = _read(target).partition(b"\n")
    except FileNotFoundError:
        return None
    if digest != b"%08x" % crc32(content):
        raise DamageError(target, "it does not fit the checksum that it begins with")
    found = json.loads(content)
    return [Sums(**{**version, "crc32": tuple(version["crc32"])}) for version in found]


def _crcs(stream: io.RawIOBase | io.BufferedIOBase, lengths: Sequence[int]) -> Iterator[int]:
    """The checksum of each of the next blocks of a file."""
    # One small buffer for all: it stays in the processor's cache, and to have a new one from the
    # system takes longer than to read into it.
    buffer = memoryview(bytearray(_PIECE_BYTES))
    for length in lengths:
        crc, left = 0, length
        while left and (got := stream.readinto(buffer[:left])):
            crc, left = crc32(buffer[:got], crc), left - got
        yield crc


def _lengths(size: int, first: int, block: int) -> Iterator[int]:
    """The bytes of each block of a file."""
    length, left = first, size
    while left:
        length = min(length, left)
        yield length
        length, left = block, left - length
