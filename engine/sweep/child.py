"""A command of a sweep as a process that does not outlive the one that started it.

    python -c "from engine.sweep.child import main; main()" PARENT WORDS...

is `python -m engine WORDS...`, but that the kernel sends it SIGTERM when process PARENT ends,
however that happens: it ends its step, saves and is gone. What does not within `GRACE_S` is killed.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import NoReturn

from engine.exits import SIGNALLED

_PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""

GRACE_S = 120.0
"""Seconds for a step and a save, as clusters give."""

_LOOK_S = 5.0


def words(argv: Sequence[str]) -> list[str]:
    """What to execute for the words behind `python -m engine`, as a child of this process."""
    program = "from engine.sweep.child import main; main()"
    return [sys.executable, "-c", program, str(os.getpid()), *argv]


def end_with(parent: int) -> None:
    """Have this process sent SIGTERM when its `parent` ends; ends it now if that is gone."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):  # Linux
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the kernel was told
        raise SystemExit(SIGNALLED + signal.SIGTERM)


def bind(parent: int) -> None:
    """`end_with` a parent, and by SIGKILL if this process takes longer than `GRACE_S` to."""
    end_with(parent)
    threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> NoReturn:
    """Bind this process to its parent, then be the command."""
    parent, *argv = sys.argv[1:]
    bind(int(parent))
    # What a run's log shows as typed.
    sys.orig_argv[:] = [sys.executable, "-m", "engine", *argv]
    sys.argv[1:] = argv
    from engine.verbs import run

    run()
