"""One side of a benchmark in a process of its own, called in turns with its rivals.

Two sides in one process would share what one of them sets up: the allocator's thresholds, thread
pools, compiled code, and the memory that either left behind.
"""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.figures import Called, Facts
from benchmarks.memory import PeakMemory, tree_memory

_QUIET_S = 0.05
"""Threads of a pool spin for some milliseconds after their work; the next side is not to pay."""

_PR_SET_PDEATHSIG = 1
"""Of man 2 prctl: a process that would wait for the next call for ever is ended with its parent."""

_LEAVE_S = 10.0
"""How long a side may take to end its workers before it is stopped."""


@dataclass(frozen=True)
class Prepared:
    """What a side does over and over.

    Attributes:
        run: does the work once and returns facts about the result.
        reset: puts everything back before each call of `run`; not timed.
    """

    run: Callable[[], Facts]
    reset: Callable[[], object] = bool


class Side:
    """A process that prepares itself by `prepare(*arguments)` and then runs when told to.

    Attributes:
        first: the first call, untimed: compilation, first pages.
        mib: what the preparation and the first call took at most, beyond the bare process.
    """

    def __init__(
        self, name: str, threads: int, prepare: Callable[..., Prepared], *arguments: Any
    ) -> None:
        """Start the process, prepare it and call it once.

        Args:
            name: for messages.
            threads: of PyTorch in the new process.
            prepare: a function of a module, called in the new process.
            *arguments: of `prepare`, picklable.

        Raises:
            RuntimeError: the side failed; the message holds its traceback.
        """
        self.name = name
        # A forked process would inherit this one's threads' locks, but not the threads.
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        others = set(multiprocessing.active_children())
        begun = self._pool.submit(_told, _begin, threads, *arguments)
        (self._process,) = set(multiprocessing.active_children()) - others
        try:
            pid: int = self._answer(begun)
            before = tree_memory(pid)
            with PeakMemory(pid) as memory:
                self._do(_prepare, prepare, *arguments)
                self.first = self.call()
        except BaseException:
            self.close()
            raise
        own, mapped = (
            max(0.0, peak - bare) for peak, bare in zip(memory.peak, before, strict=True)
        )
        self.mib = {"peak_extra_mib": own, "peak_mapped_mib": mapped}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self) -> Called:
        """Run once.

        Raises:
            RuntimeError: the side failed.
        """
        called: Called = self._do(_run)
        return called

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(wait=False)
        self._process.join(_LEAVE_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._answer(self._pool.submit(_told, function, *arguments))

    def _answer(self, asked: Future[Any]) -> Any:
        try:
            return asked.result()
        except BrokenProcessPool:
            self._pool.shutdown()  # which knows the exit code by then
            raise RuntimeError(
                f"{self.name} ended with exit code {self._process.exitcode}; -9 means that the "
                "machine ran out of memory: use fewer --frames"
            ) from None
        except RuntimeError as error:
            raise RuntimeError(f"{self.name} failed:\n{error}") from None


_PREPARED: list[Prepared] = []
"""In a side's process, what it does."""


def _told(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception:  # noqa: BLE001 - whatever it is, the other process reports it
        # As text, since not every exception survives the way.
        raise RuntimeError(traceback.format_exc()) from None


def _begin(threads: int, *_: Any) -> int:
    """Make the bare process: what every side needs, the modules of the arguments among it."""
    import torch

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # Progress bars of two sides would mix on a terminal.
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - kept open
    # This process was spawned, and would spawn its workers too; a user's does what is usual.
    multiprocessing.set_start_method(None, force=True)
    torch.set_num_threads(threads)
    return os.getpid()


def _prepare(prepare: Callable[..., Prepared], *arguments: Any) -> None:
    _PREPARED.append(prepare(*arguments))


def _run() -> Called:
    import torch

    (prepared,) = _PREPARED
    prepared.reset()
    gc.collect()
    time.sleep(_QUIET_S)
    start_s = time.perf_counter()
    facts = prepared.run()
    seconds = time.perf_counter() - start_s
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return Called(seconds, facts, used / 2**20)
