"""What the user is told of a disk that is full."""

import errno
import os
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota and a limit on one file's size (4 GiB on FAT) that is reached."""

_PROBE_BYTES = 1 << 20
"""More than the buffers of any library that failed to write a block and did not say why."""

_MIB = 1 << 20


class DiskFullError(OSError):
    """There is no room for a file; what stood before stands."""


def refuse_full(error: Exception, part: Path, path: Path, needed: int = 0) -> None:
    """Raise a DiskFullError if `error` came of a full disk.

    Args:
        error: what a writer raised; libraries hide the system's own in errors of theirs.
        part: what was written so far, which is of no use now: it may grow.
        path: the file that it was to become.
        needed: its bytes, if they are known; the file that stands under the name is a guess.
    """
    if isinstance(error, DiskFullError):
        return
    number = error.errno if isinstance(error, OSError) else None
    written = part.stat().st_size if part.exists() else 0
    if number is None:
        number = _probe(part)
    if number not in FULL:
        return
    standing = path.stat().st_size if path.exists() else 0
    free = shutil.disk_usage(_existing(path.parent)).free
    raise DiskFullError(
        f"{path.parent} is full ({os.strerror(number)}): {path.name} needs "
        f"{_amount(needed or max(standing, written))}{'' if needed else ' or more'}, "
        f"{_amount(free)} are free. Nothing is lost: what was finished before stands. Make room "
        "there and run the same command again (--resume continues a fold that was stopped half-way)"
    ) from error


def _probe(part: Path) -> int | None:
    """The system's error if a file cannot grow."""
    try:
        with part.open("ab", buffering=0) as stream:
            left = memoryview(bytes(_PROBE_BYTES))
            while left:
                left = left[stream.write(left) :]
            os.fsync(stream.fileno())
    except OSError as error:
        return error.errno
    return None


def _amount(size: int) -> str:
    return f"{size / _MIB:.1f} MiB" if size >= _MIB else f"{size / 1024:.1f} KiB"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
