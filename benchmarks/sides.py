"""One side of a benchmark in a process of its own, called in turns with its rivals.

Two sides in one process would share what one of them sets up: the allocator's thresholds, thread
pools, compiled code, and the memory that either left behind. Their memory is sampled from outside.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.figures import Called, Facts

_QUIET_S = 0.05
"""Threads of a pool spin for some milliseconds after their work; the next side is not to pay."""

_PR_SET_PDEATHSIG = 1
"""Of man 2 prctl: a process that would wait for the next call for ever is ended with its parent."""

_LEAVE_S = 10.0
"""How long a side that has done its calls may take to end its workers before it is stopped."""

_EVERY_S = 0.02
"""Between two looks at memory; each costs a millisecond a process, and more where gigabytes are
resident."""

_LEFT_ALONE = 20
"""So many times what a look took, the process is left alone: it cannot map memory meanwhile."""

_MIB = 1024


class Prepared(NamedTuple):
    """What a side does over and over.

    Attributes:
        run: does the work once and returns facts about the result.
        reset: puts everything back before each call of `run`; not timed.
    """

    run: Callable[[], Facts]
    reset: Callable[[], object] = bool


Prepare = Callable[..., Prepared]
"""A function of a module, called in a process of its own."""


class Side(contextlib.AbstractContextManager["Side"]):
    """A process that prepares itself by `prepare(*arguments)` and then runs when told to.

    Attributes:
        first: the first call, untimed: compilation, first pages.
        mib: by its key in the JSON, what the preparation and the first call took at most, beyond
            the bare process; of the GPU, what all calls did.
    """

    def __init__(self, name: str, threads: int, prepare: Prepare, *arguments: Any) -> None:
        """Start the process, prepare it and call it once.

        Args:
            name: for messages.
            threads: of PyTorch in the new process.
            prepare: called in the new process.
            *arguments: of `prepare`, picklable.

        Raises:
            RuntimeError: the side failed; the message holds its traceback.
        """
        self.name = name
        self.mib: dict[str, float] = {}
        # A forked process would inherit this one's threads' locks, but not the threads.
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        # The modules of the arguments are imported by the bare process, which every side needs;
        # that of `prepare` comes later and counts as the side's own.
        self._process = spawn.Process(target=_serve, args=(theirs, threads, arguments))
        self._process.start()
        theirs.close()
        try:
            pid: int = self._answer()
            before = tree_memory(pid)
            self._pipe.send(prepare)
            peak = peak_memory(pid, self._pipe.poll)
            self.first = self._called()
        except BaseException:  # Ctrl-C too: nothing of a side outlives what it was started for.
            self.close(0.0)
            raise
        own, mapped = np.maximum(0, np.subtract(peak, before)).tolist()
        self.mib = {"peak_extra_mib": own, "peak_mapped_mib": mapped, **self.mib}

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After a fault or Ctrl-C it may be in the midst of a call, and would not hear of the end.
        self.close(_LEAVE_S if kind is None else 0.0)

    def call(self) -> Called:
        """Run once.

        Raises:
            RuntimeError: the side failed.
        """
        self._pipe.send(True)
        return self._called()

    def close(self, wait_s: float = _LEAVE_S) -> None:
        """End the process: ask it to, then kill it if it is there after `wait_s` or on Ctrl-C."""
        try:
            with contextlib.suppress(OSError):  # It may have ended already.
                self._pipe.send(False)
            self._process.join(wait_s)
        finally:
            self._process.kill()
            self._process.join()

    def _called(self) -> Called:
        called: Called = self._answer()
        if called.gpu_mib:
            self.mib["peak_gpu_mib"] = called.gpu_mib
        return called

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise RuntimeError(
                f"{self.name} ended with exit code {self._process.exitcode}; -9 means that the "
                "machine ran out of memory: use fewer --frames"
            ) from None
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name} failed:\n{answer}")
        return answer


class TreeMemory(NamedTuple):
    """Memory of a tree of processes, MiB; pages that several share are counted once.

    Attributes:
        own: anonymous and shared memory, which only ends with the processes.
        mapped: pages of mapped files, which the kernel may drop at any moment.
    """

    own: float
    mapped: float


def tree_memory(pid: int) -> TreeMemory:
    """Of the process and its descendants, by their proportional set sizes (man 5 proc)."""
    own_kib = mapped_kib = 0
    members = [pid]
    for member in members:
        process = Path(f"/proc/{member}")
        try:
            for children in process.glob("task/*/children"):
                members += map(int, children.read_text(encoding="ascii").split())
            lines = (process / "smaps_rollup").read_text(encoding="ascii").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended meanwhile.
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
        own_kib += kib["Pss_Anon"] + kib["Pss_Shmem"]
        mapped_kib += kib["Pss_File"]
    return TreeMemory(own_kib / _MIB, mapped_kib / _MIB)


def peak_memory(pid: int, is_over: Callable[[float], bool]) -> TreeMemory:
    """The most that a process tree holds until its work is over; it is looked at once at least.

    Args:
        pid: of the tree's root.
        is_over: waits for the end of the work, at most so many seconds: did it come?
    """
    peak, over, took_s = TreeMemory(0.0, 0.0), False, 0.0
    while not over:
        over = is_over(max(_EVERY_S, _LEFT_ALONE * took_s))
        start_s = time.perf_counter()
        now = tree_memory(pid)
        took_s = time.perf_counter() - start_s
        peak = TreeMemory(*map(max, peak, now))
    return peak


def _serve(pipe: Connection, threads: int, arguments: tuple[Any, ...]) -> None:
    """In a side's process: be bare, be prepared, then run as often as the other end asks."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    import torch

    # Progress bars of two sides would mix on a terminal.
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - kept open
    # This process was spawned, and would spawn its workers too; a user's does what is usual.
    multiprocessing.set_start_method(None, force=True)
    torch.set_num_threads(threads)
    pipe.send(os.getpid())
    try:
        prepared, again = pipe.recv()(*arguments), True
        while again:
            pipe.send(_run(prepared))
            again = pipe.recv()
    except Exception:  # noqa: BLE001 - whatever it is, the other process reports it
        # As text, since not every exception survives the way.
        pipe.send(traceback.format_exc())


def _run(prepared: Prepared) -> Called:
    import torch

    prepared.reset()
    gc.collect()
    time.sleep(_QUIET_S)
    start_s = time.perf_counter()
    facts = prepared.run()
    seconds = time.perf_counter() - start_s
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return Called(seconds, facts, used / 2**20)
