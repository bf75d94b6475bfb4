"""Who holds a lease, and whether it is alive: told by a lock, and where locks cannot, by its heart.

A lock (`flock`) is freed by death: who gets it, in the same running system, knows the owner dead.
Any other owner is watched: on another machine, on a file system without locks, or with a lock and a
heart that seems to stand, being frozen (SIGSTOP, a frozen container). If its heart has not beaten
for `STILL_S` of the watcher's own seconds, it is taken for dead, whatever the lock says: a lock
tells that a process exists, a heart that it gets on. A laptop that slept beats at once when it
wakes, and the watcher, whose seconds stood too, sees it. A debugger, or a file server that does not
answer for so long, costs the owner what it had not published (`engine.lease`), and only if another
process wants the place. Clocks are not compared, but to refuse at once what beat just now.
"""

import fcntl
import getpass
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ValidationError

_log = logging.getLogger(__name__)
_log_once = cache(_log.info)  # however often who waits looks at the same owner

BEAT_S = 5.0
"""Seconds between two beats of a heart: nothing to a file server."""

STILL_S = 60.0
"""Seconds without a beat after which an owner is taken for dead: a dozen beats, and longer than a
process is kept from its threads by a compilation or a slow file server."""

FRESH_BEATS = 3
"""Beats that may be missed before a heart is watched: a busy machine skips one or two."""

_NAME = "owner.json"

_TRIES = 3
"""Looks at a lock before it counts as an owner's: another process may just have looked at it."""


class Owner(BaseModel):
    """`owner.json`, for people to read; only `system` is compared."""

    user: str = "unknown"
    host: str = "unknown"
    pid: int = 0
    since: str = "an unknown time"
    system: str = ""
    """the running system, which a reboot ends: within one, locks tell the dead from the living"""

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, since {self.since}"

    @property
    def kill(self) -> str:
        """What ends it, and where."""
        return f"kill {self.pid}" + ("" if self.system == system() else f" on {self.host}")


def read_owner(entry: Path) -> Owner:
    """Who signed an entry; unknown if nobody did."""
    try:
        return Owner.model_validate_json((entry / _NAME).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return Owner()


def beat_of(folder: Path) -> tuple[int, int] | None:
    """What the next beat of an owner's heart changes; None if nobody holds the lease of a folder.

    `folder` holds the owner's entry. Whoever sees it unchanged for `STILL_S` may take it for dead.
    """
    with suppress(OSError):
        for entry in folder.iterdir():
            told = (entry / _NAME).stat()
            return told.st_mtime_ns, told.st_ino
    return None


def sign(entry: Path) -> int:
    """Make this process the owner of an entry; returns what is to be closed when it no longer is.

    The file is locked before it has its name: nobody finds a living owner's without its lock.
    """
    user = str(os.getuid())
    with suppress(OSError, KeyError):  # a container may have no name for it
        user = getpass.getuser()
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    owner = Owner(user=user, host=host(), pid=os.getpid(), since=since, system=system())
    temporary = entry / f"{_NAME}.tmp"
    temporary.write_text(owner.model_dump_json(indent=2) + "\n", encoding="utf-8")
    descriptor = os.open(temporary, os.O_RDWR)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    temporary.rename(entry / _NAME)
    return descriptor


class Pulse:
    """An owner's file, opened to learn whether it is alive; while it is open its lock may be ours.

    Raises FileNotFoundError if there is none.
    """

    def __init__(self, entry: Path) -> None:
        self._file = entry / _NAME
        try:
            # A network file system locks only what may be written.
            self._descriptor = os.open(self._file, os.O_RDWR)
        except PermissionError:
            self._descriptor = os.open(self._file, os.O_RDONLY)
        self._got = self._lock()

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)

    @property
    def lives(self) -> bool:
        """Whether its lock says so, and nothing speaks against its heart.

        A clock is asked only whether to watch: one that is wrong costs who asks a few seconds.
        """
        seen = self._seen()
        age_s = None if seen is None else time.time() - seen[0] / 1e9
        return self._got is False and age_s is not None and abs(age_s) < FRESH_BEATS * BEAT_S

    @property
    def died(self) -> bool:
        """Whether its lock says so, which in another running system is not enough."""
        return self._got is True and read_owner(self._file.parent).system == system()

    def is_current(self) -> bool:
        """Whether the file that was opened is the owner's still, or another one signed since."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), self._file.stat())
        return False

    def stops(self) -> bool:
        """Watch the heart, for `STILL_S` at most; whether it did not beat. The log says so."""
        told = "watching for up to %.0f s whether this process is alive: %s"
        _log_once(told, STILL_S, str(read_owner(self._file.parent)))
        seen, start_s = self._seen(), time.monotonic()
        while time.monotonic() - start_s < STILL_S:
            time.sleep(min(BEAT_S, STILL_S) / 5)
            if self._seen() != seen:
                return False
        return True

    def _lock(self) -> bool | None:
        """Whether the lock is got; None where the file system has none."""
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
            except OSError:
                return None
            else:
                return True
        return False

    def _seen(self) -> tuple[int, int] | None:
        """What a beat changes. Opened anew: a network file system then asks its server."""
        try:
            with self._file.open("rb") as stream:
                told = os.fstat(stream.fileno())
                return told.st_mtime_ns, told.st_ino
        except OSError:
            return None


def start_heart(entry: Path, lost: Callable[[], None]) -> threading.Event:
    """Touch an entry's file every `BEAT_S`, on a thread of its own, until the event is set.

    If it is gone, another process took the lease: the heart calls `lost`, once, and ends.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_S):
            try:
                os.utime(entry / _NAME)
            except FileNotFoundError:
                if not stop.is_set():
                    lost()
                return
            except OSError:  # a file server that is away for a while
                continue

    threading.Thread(target=beat, name="lease", daemon=True).start()
    return stop


def given_up() -> str:
    """When an owner that is frozen loses what it holds, for messages."""
    return f"it is given up after {STILL_S:.0f} s without a sign of life"


def host() -> str:
    """The machine's name, fit for a file's."""
    return socket.gethostname().replace("/", "_") or "host"


def system() -> str:
    """The running system, which a reboot ends."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return host()
