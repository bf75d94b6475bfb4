"""What lies in the cache, and what of it goes: what nobody used for long, and what is too much."""

import fcntl
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.frames.cache import GIB, MANIFEST, SOURCE, locked

_DAY_S = 86_400

_STALE_S = 3600
"""Age from which what a killed process left half-written is deleted: nobody writes for an hour."""


@dataclass(frozen=True)
class Entry:
    """Decoded frames, or what was found in files."""

    path: Path
    dataset: str
    """The folder whose frames they were when they were decoded; empty if nothing says."""
    size: int
    """Bytes."""
    age_s: float
    """Since it was used; less than 0 if the clock was set back."""
    in_use: bool


def cache_entries(folder: Path) -> list[Entry]:
    """What lies in a cache, the latest used first."""
    entries = [_frames(path) for path in folder.glob("frames-*") if path.is_dir()]
    entries += [_reports(path) for path in folder.glob("checked-*")]
    return sorted(entries, key=lambda entry: entry.age_s)


def prune(folder: Path, gib: float | None, days: float | None, *, wait: bool) -> list[Entry]:
    """Delete what was not used for `days`, then the least recently used until `gib` are left.

    What a process has mapped stays. Returns what was deleted; nothing if another process makes
    frames there, unless it is to `wait` for that.
    """
    # Training does not mind a folder that is another user's.
    with suppress(BlockingIOError if wait else OSError), locked(folder, wait=wait):
        for left in folder.glob(".checked-*.tmp"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()
        entries = cache_entries(folder)
        return [entry for entry in _superfluous(entries, gib, days) if _delete(entry)]
    return []


def _superfluous(entries: Sequence[Entry], gib: float | None, days: float | None) -> list[Entry]:
    """Those that go, of entries the latest used first; those in use count, and stay."""
    gone, left = [], sum(entry.size for entry in entries)
    for entry in reversed(entries):
        is_old = days is not None and entry.age_s > days * _DAY_S
        if not entry.in_use and (is_old or (gib is not None and left > gib * GIB)):
            gone.append(entry)
            left -= entry.size
    return gone


def _frames(path: Path) -> Entry:
    size, dataset, age_s = 0, "", 0.0
    with suppress(OSError):
        size = sum(file.stat().st_size for file in path.iterdir())
        age_s = time.time() - (path / MANIFEST).stat().st_mtime
        dataset = (path / SOURCE).read_text(encoding="utf-8").strip()
    return Entry(path, dataset, size, age_s, _is_in_use(path))


def _reports(path: Path) -> Entry:
    size, age_s = 0, 0.0
    with suppress(OSError):
        told = path.stat()
        size, age_s = told.st_size, time.time() - told.st_mtime
    return Entry(path, "", size, age_s, in_use=False)


def _is_in_use(path: Path) -> bool:
    """Whether a process has the frames mapped; true where the file system cannot tell."""
    try:
        descriptor = os.open(path / "image", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _delete(entry: Entry) -> bool:
    """Delete an entry, whole or not at all; whether that could be done."""
    with suppress(OSError):
        if entry.path.is_file():
            entry.path.unlink()
            return True
        descriptor = None
        with suppress(FileNotFoundError):
            descriptor = os.open(entry.path / "image", os.O_RDWR)
        try:
            if descriptor is not None:
                # Nobody maps it between this look and its end: who gets the lock looks again.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # First under a name that nobody looks for, and that `locked` clears away.
            gone = entry.path.with_name(f".{entry.path.name}.part")
            entry.path.rename(gone)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        shutil.rmtree(gone, ignore_errors=True)
        return True
    return False
