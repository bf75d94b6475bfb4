"""The time in which Numba compiles kernels: told, and kept apart from the time of work.

Light: whoever takes time imports this, and Numba's notices arrive here once kernels are loaded.
"""

import logging
import subprocess
import threading
import time
from contextlib import suppress

LONGEST_S = 120.0
"""How long a compiler is waited for. On a core of its own, a slow one, it takes 40 s."""

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
        self._compiler: subprocess.Popen[bytes] | None = None
        self._waiting = threading.Lock()

    def begin(self) -> None:
        """A kernel begins to be compiled; the first is told."""
        with self._lock:
            if not self._depth:
                self._begun_s = time.monotonic()
            self._depth += 1
        self._tell()

    def end(self) -> None:
        """A kernel is compiled, or could not be."""
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._spent_s += time.monotonic() - self._begun_s

    def expect(self, compiler: subprocess.Popen[bytes]) -> None:
        """Another process compiles kernels, while this one does what needs none of them."""
        self._compiler = compiler
        self._tell()

    def wait(self) -> None:
        """Return when the expected process has ended; what is waited counts as compiling.

        Nothing depends on whether it compiled them: this process then finds them or does it itself.
        """
        with self._waiting:
            if self._compiler is None:
                return
            self.begin()
            try:
                with suppress(subprocess.TimeoutExpired):
                    self._compiler.wait(LONGEST_S)
            finally:
                self.end()
            code, self._compiler = self._compiler.returncode, None
        if code != 0:
            ended = "is not done" if code is None else f"ended with code {code}"
            _log.info("kernels are compiled one by one: the process that compiles ahead %s", ended)

    def seconds(self) -> float:
        """What it has taken until now."""
        with self._lock:
            return self._spent_s + (time.monotonic() - self._begun_s if self._depth else 0.0)

    def _tell(self) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            _log.info("compiling kernels (%s)", self.how_often)


COMPILING = Compiling()
"""This process's."""


def work_s() -> float:
    """As `time.monotonic`, by a clock that stands still while kernels are compiled."""
    return time.monotonic() - COMPILING.seconds()
