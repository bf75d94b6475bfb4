"""One side of a benchmark in a process of its own, called in turns with its rivals.

Two sides in one process would share what one of them sets up: the allocator's thresholds, thread
pools, compiled code, and the memory that either left behind.
"""

import gc
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.memory import PeakMemory, TreeMemory, tree_memory

_QUIET_S = 0.05
"""Threads of a pool spin for some milliseconds after their work; the next side is not to pay."""

_LEAVE_S = 10.0
"""How long a side may take to end its workers before it is stopped."""


@dataclass(frozen=True)
class Prepared:
    """What a side does over and over.

    Attributes:
        run: does the work once and returns facts about the result, small and picklable.
        reset: puts everything back before each call of `run`; not timed.
    """

    run: Callable[[], dict[str, Any]]
    reset: Callable[[], object] = bool


@dataclass(frozen=True)
class Called:
    """One timed call.

    Attributes:
        seconds: it took.
        facts: about its result.
        gpu_mib: most memory of PyTorch's tensors on the GPU since the side began; 0 without one.
    """

    seconds: float
    facts: dict[str, Any]
    gpu_mib: float = 0.0


class Side:
    """A process that prepares itself by `prepare(*arguments)` and then runs when told to.

    Attributes:
        memory: what the preparation and the first call took at most, beyond the bare process.
    """

    def __init__(
        self, name: str, threads: int, prepare: Callable[..., Prepared], *arguments: Any
    ) -> None:
        """Start the process, prepare it and call it once, untimed: compilation, first pages.

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
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # Not a daemon: those may not have workers.
        self._process = context.Process(target=_serve, args=(theirs, threads, prepare, arguments))
        self._process.start()
        theirs.close()
        try:
            self._answer()
            assert self._process.pid is not None
            before = tree_memory(self._process.pid)
            with PeakMemory(self._process.pid) as memory:
                self._pipe.send("prepare")
                self._answer()
                self.first = self.call()
        except BaseException:
            self.close()
            raise
        self.memory = TreeMemory(
            max(0.0, memory.peak.own - before.own), max(0.0, memory.peak.mapped - before.mapped)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def call(self) -> Called:
        """Run once.

        Raises:
            RuntimeError: the side failed.
        """
        self._pipe.send("run")
        called: Called = self._answer()
        return called

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(_LEAVE_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join(_LEAVE_S)
            raise RuntimeError(
                f"{self.name} ended with exit code {self._process.exitcode}; -9 means that the "
                "machine ran out of memory: use fewer --frames"
            ) from None
        if isinstance(answer, _Failure):
            raise RuntimeError(f"{self.name} failed:\n{answer.trace}")
        return answer


def take_turns(
    sides: Sequence[Side], rounds: int, say: Callable[[str], None]
) -> Mapping[str, list[Called]]:
    """Call every side once a round, in alternating order; the calls by the sides' names."""
    calls: dict[str, list[Called]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            calls[side.name].append(side.call())
        lasted = ", ".join(f"{name} {made[-1].seconds:.3g} s" for name, made in calls.items())
        say(f"  round {number + 1}/{rounds}: {lasted}")
    return calls


@dataclass(frozen=True)
class _Failure:
    trace: str


def _serve(
    pipe: Connection,
    threads: int,
    prepare: Callable[..., Prepared],
    arguments: tuple[Any, ...],
) -> None:
    """The new process: answer until the pipe is closed."""
    try:
        # What every side needs, so that it belongs to the bare process.
        import torch

        # Progress bars of two sides would mix on a terminal.
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - kept open
        # This process was spawned, and would spawn its workers too; a user's does what is usual.
        multiprocessing.set_start_method(None, force=True)
        torch.set_num_threads(threads)
        pipe.send("ready")
        pipe.recv()
        prepared = prepare(*arguments)
        pipe.send("prepared")
        while True:
            pipe.recv()
            pipe.send(_timed(prepared))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # The other end has gone.
    except BaseException:  # noqa: BLE001 - whatever it is, the other process reports it
        pipe.send(_Failure(traceback.format_exc()))


def _timed(prepared: Prepared) -> Called:
    prepared.reset()
    gc.collect()
    time.sleep(_QUIET_S)
    start_s = time.perf_counter()
    facts = prepared.run()
    seconds = time.perf_counter() - start_s
    return Called(seconds, facts, _gpu_mib())


def _gpu_mib() -> float:
    import torch

    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return used / 2**20
