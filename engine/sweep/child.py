"""A command of a sweep as a process that does not outlive the one that started it.

    python -c "from engine.sweep.child import main; main()" PARENT WORDS...

is `python -m engine WORDS...`, but that the kernel kills it when process PARENT ends, however that
happens. A kill loses nothing but the steps since the last checkpoint.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""


def words(argv: Sequence[str]) -> list[str]:
    """What to execute for the words behind `python -m engine`, as a child of this process."""
    program = "from engine.sweep.child import main; main()"
    return [sys.executable, "-c", program, str(os.getpid()), *argv]


def main() -> NoReturn:
    """Bind this process to its parent, then be the command."""
    parent, *argv = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before the kernel was told
        raise SystemExit(128 + signal.SIGKILL)
    # What a run's log shows as typed.
    sys.orig_argv[:] = [sys.executable, "-m", "engine", *argv]
    sys.argv[1:] = argv
    from engine.verbs import run

    run()
