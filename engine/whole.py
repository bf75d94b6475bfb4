"""Files that appear whole or not at all, and their checksums with them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import sums
from engine.lease import draft


@contextmanager
def whole_file(path: Path, *, summed: bool = False, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary path; on success it is synced and renamed to `path`.

    A kill at any moment, or an exception, leaves the old file or the new one, never a part of one.
    Where a lease covers `path`, it is made in the lease's attempt, else beside. A file that is
    `summed` gets checksums. A full disk is a DiskFullError, which names the bytes `needed`, if they
    are known.
    """
    temporary = draft(path)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        if summed:
            announce(path, sums.sums_of(temporary))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        from engine.full_disk import refuse_full

        refuse_full(error, temporary, path, needed)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def announce(path: Path, coming: sums.Sums) -> None:
    """Let the checksums of `path` tell of what is `coming` too; see `engine.sums.expect`.

    Where a lease covers `path`, they are made in the lease's attempt, else beside.
    """
    sums.expect(path, coming, draft(sums.sum_file(path)))


def discard(path: Path) -> None:
    """Delete a file and its checksums, if they are there.

    Where a lease covers `path`, by way of the attempt: an owner that slept deletes nothing of the
    next one's.
    """
    # In this order: a sum file that is alone tells of a file that is lost.
    for each in (sums.sum_file(path), path):
        if each.exists():
            each.replace(draft(each)).unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (a rename is only on disk once its folder is)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_summed(path: Path, text: str) -> None:
    """Write `text` and its checksums, whole or not at all."""
    with whole_file(path, summed=True, needed=len(text)) as temporary:
        temporary.write_text(text, encoding="utf-8")
