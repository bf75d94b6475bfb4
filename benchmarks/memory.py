"""Memory of a process and all that it started, sampled from outside."""

import threading
import time
from pathlib import Path
from typing import NamedTuple, Self

_EVERY_S = 0.02
"""Between two looks; each costs a millisecond a process, and more where gigabytes are resident."""

_LEFT_ALONE = 20
"""So many times what a look took, the process is left alone: it cannot map memory meanwhile."""

_MIB = 1024


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


class PeakMemory:
    """Within a `with` block, follows a process tree's memory; afterwards `peak` holds the most."""

    def __init__(self, pid: int) -> None:
        self.peak = TreeMemory(0.0, 0.0)
        self._pid, self._stop = pid, threading.Event()
        self._thread = threading.Thread(target=self._follow, name="memory")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        last, took_s = False, 0.0
        while not last:
            last = self._stop.wait(max(_EVERY_S, _LEFT_ALONE * took_s))
            start_s = time.perf_counter()
            now = tree_memory(self._pid)
            took_s = time.perf_counter() - start_s
            self.peak = TreeMemory(*map(max, self.peak, now))
