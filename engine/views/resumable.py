"""A `.npy` file that grows item by item, knows a checksum of each, and the note beside it.

    NAME        the array
    NAME.crc    of each item its CRC-32, as int64; -1: it was not written. Gone at the end

A note holds one number for the checksums of all items that it tells of: it stays as long however
many these are, and damage to either file is noticed.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from deflate import crc32
from numpy.typing import DTypeLike, NDArray

from engine import sums
from engine.damage import DamageError
from engine.sums import Sums
from engine.views.records import Note

_Note = TypeVar("_Note", bound=Note)

_DIGITS = 8
"""A CRC-32 in hexadecimal."""

_UNKNOWN, _DOUBTED = -1, -2
"""In the place of the checksum of an item that nobody wrote, or whose checksum is not as noted."""

_CRC = np.dtype("<i8")


def noted(kind: type[_Note], path: Path, key: str) -> _Note:
    """What an earlier call noted for the same key, else a new note: nothing is there yet."""
    found = kind.read(path) if path.exists() else None
    return found if found and found.key == key else kind(key=key)


class ResumableArray:
    """A `.npy` file whose items along the first axis are written one by one, in any order.

    Plain writes, not a memory map: mapped dirty pages would count as the process's own. A full disk
    is a DiskFullError.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Continue the file if it exists, else make it, full of zeros."""
        self._path, self._dtype = path, np.dtype(dtype)
        head, described = io.BytesIO(), np.lib.format.dtype_to_descr(self._dtype)
        fields = {"descr": described, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, fields)
        self._header, self._item_bytes = (
            head.getvalue(),
            self._dtype.itemsize * math.prod(shape[1:]),
        )
        self._size = len(self._header) + shape[0] * self._item_bytes
        self._crc_N = np.full(shape[0], _UNKNOWN, _CRC)
        self._unwritten: list[int] = []
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._beside = os.open(_sums_beside(path), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Even if it exists: a kill may have come before all of this was written.
            os.ftruncate(self._descriptor, self._size)
            _put(self._descriptor, self._header, 0)
        except OSError as error:
            self.close()
            self._refuse(error)
            raise

    def write(self, index: int, items: NDArray[np.generic]) -> None:
        """Write items from position `index` on, converted to the array's type."""
        content, step = items.astype(self._dtype, copy=False).tobytes(), self._item_bytes
        for n, start in enumerate(range(0, len(content), step), index):
            self._crc_N[n] = crc32(content[start : start + step])
            self._unwritten.append(n)
        try:
            _put(self._descriptor, content, len(self._header) + index * step)
        except OSError as error:
            self._refuse(error)
            raise

    def sync(self) -> None:
        """Make what was written so far durable, and the checksums of it."""
        try:
            os.fsync(self._descriptor)
            if self._unwritten:
                for first, end in _runs(self._unwritten):
                    content = self._crc_N[first:end].tobytes()
                    _put(self._beside, content, first * _CRC.itemsize)
                os.fsync(self._beside)
                self._unwritten.clear()
        except OSError as error:
            self._refuse(error)
            raise

    def noted(self, positions: Sequence[int], before: int = 0) -> int:
        """One number for the checksums of items, for `recall`, behind `before` of earlier ones."""
        return int(crc32(self._crc_N[list(positions)].tobytes(), before))

    def recall(self, positions: Sequence[int], noted: int | None) -> None:
        """Take the checksums of items that were written before, which stand beside the array.

        Those that are not what was noted are doubted: unless such an item is written again,
        `finish` refuses. None was noted by an older release.
        """
        stood = np.fromfile(_sums_beside(self._path), _CRC)
        if noted is None or not len(stood):
            return  # the latter: stopped between the end and the renaming
        chosen = list(positions)
        whole = len(stood) > max(chosen, default=-1)
        if not whole or crc32(stood[chosen].tobytes()) != noted:
            self._crc_N[chosen] = _DOUBTED
            return
        self._crc_N[chosen] = stood[chosen]

    def recall_digits(self, positions: Sequence[int], noted: str) -> None:
        """Take checksums that an older release noted, each by itself, as far as it did."""
        starts = range(0, len(noted), _DIGITS)
        for n, digits in zip(positions, (noted[at : at + _DIGITS] for at in starts), strict=False):
            self._crc_N[n] = _UNKNOWN if "-" in digits else int(digits, 16)
            self._unwritten.append(n)

    def finish(self) -> Sums:
        """The checksums of the whole file, which is read; raises DamageError."""
        found, at = [], len(self._header)
        for n, crc in enumerate(self._crc_N.tolist()):
            now = crc32(os.pread(self._descriptor, self._item_bytes, at + n * self._item_bytes))
            if crc not in (_UNKNOWN, now):
                raise DamageError(self._path, f"item {n} is not what was written")
            found.append(now)
        return Sums(self._size, at, self._item_bytes, (crc32(self._header), *found))

    def close(self) -> None:
        """Give the file back; what was not synced may be lost."""
        os.close(self._descriptor)
        os.close(self._beside)

    def _refuse(self, error: OSError) -> None:
        from engine.full_disk import refuse_full

        refuse_full(error, self._path, self._path, self._size)


def forget(path: Path) -> None:
    """Delete an array that is no longer to be continued, if it is there, with its checksums."""
    sums.remove(path)
    _sums_beside(path).unlink(missing_ok=True)


def forget_sums(path: Path) -> None:
    """Delete what is noted beside an array that is whole."""
    _sums_beside(path).unlink(missing_ok=True)


def _sums_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.crc")


def _put(descriptor: int, content: bytes, start: int) -> None:
    left = memoryview(content)
    while left:  # the system may write a part only, and tell of a full disk the next time
        written = os.pwrite(descriptor, left, start)
        left, start = left[written:], start + written


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """(first, end) of each run of numbers, ascending."""
    ordered = np.unique(numbers)
    cuts = np.flatnonzero(np.diff(ordered) > 1) + 1
    parts = np.split(ordered, cuts)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]
