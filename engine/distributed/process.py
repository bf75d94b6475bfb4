"""A process by its number and machine, as another one sees it."""

import json
import os
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.owner import host, system


@dataclass(frozen=True)
class Process:
    """Which it is; a number alone may be another's by now."""

    host: str
    system: str
    """the running system, which a reboot ends, and what in it numbers processes"""
    pid: int
    started: str
    """clock ticks from then on"""

    @classmethod
    def this(cls) -> "Process":
        """The present one."""
        pid = os.getpid()
        return cls(host(), _numbering(), pid, _status(pid)[1])

    @classmethod
    def parse(cls, text: bytes) -> "Process":
        """What `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Whether it is known to be; of another machine's nothing is."""
        state, started = self._seen()
        return state is not None and (state in "ZX" or started != self.started)

    def is_stopped(self) -> bool:
        """Whether it is known to be, by a signal or a debugger."""
        state, started = self._seen()
        return state is not None and state in "Tt" and started == self.started

    def kill(self) -> None:
        """End it, where it is on this machine."""
        if self.system == _numbering() and not self.is_gone():
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def _seen(self) -> tuple[str | None, str]:
        return _status(self.pid) if self.system == _numbering() else (None, "")


def _numbering() -> str:
    """Where a number names one process: containers of a machine have numbers of their own."""
    with suppress(OSError):
        return f"{system()} {Path('/proc/self/ns/pid').readlink()}"
    return system()


def _status(pid: int) -> tuple[str | None, str]:
    """State and start of a process; X if there is none, None where that cannot be known.

    https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    """
    if not Path("/proc/self/stat").exists():
        return None, ""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "X", ""
    # The second field, the name in parentheses, may hold anything.
    fields = told.rpartition(")")[2].split()
    return fields[0], fields[19]
