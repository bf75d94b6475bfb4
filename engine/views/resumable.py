"""A `.npy` file that grows item by item, knows a checksum of each, and the note beside it."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from deflate import crc32
from numpy.typing import DTypeLike, NDArray

from engine.damage import DamageError
from engine.sums import Sums
from engine.views.records import Note

_Note = TypeVar("_Note", bound=Note)

_DIGITS = 8
"""A CRC-32 in hexadecimal."""


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
        self._crc_N: list[int | None] = [None] * shape[0]
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Even if it exists: a kill may have come before all of this was written.
            os.ftruncate(self._descriptor, self._size)
            self._put(self._header, 0)
        except OSError as error:
            self.close()
            self._refuse(error)
            raise

    def write(self, index: int, items: NDArray[np.generic]) -> None:
        """Write items from position `index` on, converted to the array's type."""
        content, step = items.astype(self._dtype, copy=False).tobytes(), self._item_bytes
        for n, start in enumerate(range(0, len(content), step), index):
            self._crc_N[n] = crc32(content[start : start + step])
        try:
            self._put(content, len(self._header) + index * step)
        except OSError as error:
            self._refuse(error)
            raise

    def sync(self) -> None:
        """Make what was written so far durable."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._refuse(error)
            raise

    def crc32(self, positions: Sequence[int]) -> str:
        """The checksums of items, for `recall`."""
        found = (self._crc_N[n] for n in positions)
        return "".join("-" * _DIGITS if crc is None else f"{crc:08x}" for crc in found)

    def recall(self, positions: Sequence[int], noted: str) -> None:
        """Hold items that were written before to their checksums; an older note has none."""
        starts = range(0, len(noted), _DIGITS)
        for n, digits in zip(positions, (noted[at : at + _DIGITS] for at in starts), strict=False):
            self._crc_N[n] = None if "-" in digits else int(digits, 16)

    def finish(self) -> Sums:
        """The checksums of the whole file, which is read; raises DamageError."""
        found, at = [], len(self._header)
        for n, crc in enumerate(self._crc_N):
            now = crc32(os.pread(self._descriptor, self._item_bytes, at + n * self._item_bytes))
            if crc not in (None, now):
                raise DamageError(self._path, f"item {n} is not what was written")
            found.append(now)
        return Sums(self._size, at, self._item_bytes, (crc32(self._header), *found))

    def close(self) -> None:
        """Give the file back; what was not synced may be lost."""
        os.close(self._descriptor)

    def _put(self, content: bytes, start: int) -> None:
        left = memoryview(content)
        while left:  # the system may write a part only, and tell of a full disk the next time
            written = os.pwrite(self._descriptor, left, start)
            left, start = left[written:], start + written

    def _refuse(self, error: OSError) -> None:
        from engine.full_disk import refuse_full

        refuse_full(error, self._path, self._path, self._size)
