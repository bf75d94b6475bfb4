"""The time in which Numba compiles kernels: told, and kept apart from the time of work.

Light: whoever takes time imports this, and Numba's notices arrive here once kernels are loaded.
"""

import logging
import threading
import time

_log = logging.getLogger(__name__)


class Compiling:
    """What compiling has taken so far; may be told and asked from any thread."""

    def __init__(self) -> None:
        self.how_often = "once per machine"
        """When it has to be done, in words."""
        self._lock = threading.Lock()
        self._told = False
        self._spent_s = self._begun_s = 0.0
        # Kernels in the making. Numba makes one at a time, whoever asks; it asks for what it calls.
        self._depth = 0

    def begin(self) -> None:
        """A kernel begins to be compiled; the first is told."""
        with self._lock:
            if not self._depth:
                self._begun_s = time.monotonic()
            self._depth += 1
            told, self._told = self._told, True
        if not told:
            _log.info("compiling kernels (%s)", self.how_often)

    def end(self) -> None:
        """A kernel is compiled, or could not be."""
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._spent_s += time.monotonic() - self._begun_s

    def seconds(self) -> float:
        """What it has taken until now."""
        with self._lock:
            return self._spent_s + (time.monotonic() - self._begun_s if self._depth else 0.0)


COMPILING = Compiling()
"""This process's."""


def work_s() -> float:
    """As `time.monotonic`, by a clock that stands still while kernels are compiled."""
    return time.monotonic() - COMPILING.seconds()
