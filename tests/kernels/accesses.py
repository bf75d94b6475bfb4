"""What kernels read and write in Triton's interpreter, launch by launch."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray


class Accesses:
    """Bytes that launches touch, each address once a launch for reading and once for writing.

    That is what memory has to move: what a program reads again, or a neighbour's does, comes from a
    cache, and what another launch has written has left it, at the sizes that matter.
    """

    def __init__(self) -> None:
        self.read = self.written = 0
        self._seen: dict[tuple[str, int], list[NDArray[np.uint64]]] = {}

    @property
    def moved(self) -> int:
        """Both directions."""
        return self.read + self.written

    def note(self, direction: str, at: Any, mask: Any, itemsize: int) -> None:
        """Elements at addresses, those under a mask."""
        at = np.asarray(at)
        masked = np.broadcast_to(np.asarray(mask, bool), at.shape)
        self._seen.setdefault((direction, itemsize), []).append(
            at[masked].astype(np.uint64).ravel()
        )

    def close(self) -> None:
        """A launch has ended."""
        total = Counter[str]()
        for (direction, itemsize), parts in self._seen.items():
            total[direction] += itemsize * len(np.unique(np.concatenate(parts)))
        self.read += total["read"]
        self.written += total["written"]
        self._seen.clear()


class _Noting:
    """The interpreter's memory, which says what it is asked for."""

    def __init__(self, memory: Any, accesses: Accesses) -> None:
        self._memory, self._accesses = memory, accesses

    def load(self, at: Any, mask: Any, other: Any, dtype: Any) -> Any:
        self._accesses.note("read", at, mask, np.dtype(dtype).itemsize)
        return self._memory.load(at, mask, other, dtype)

    def store(self, at: Any, value: Any, mask: Any) -> Any:
        self._accesses.note("written", at, mask, value.dtype.itemsize)
        return self._memory.store(at, value, mask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


@contextmanager
def noted() -> Iterator[Accesses]:
    """Notes the accesses of every launch within; atomic ones are not among them."""
    from triton.runtime import interpreter

    accesses, launch = Accesses(), interpreter.GridExecutor.__call__

    def call(executor: Any, *args: Any, **kwargs: Any) -> None:
        launch(executor, *args, **kwargs)
        accesses.close()

    memory = _Noting(interpreter._interpreter, accesses)
    with (
        mock.patch.object(interpreter, "_interpreter", memory),
        mock.patch.object(interpreter.GridExecutor, "__call__", call),
    ):
        yield accesses
