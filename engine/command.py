"""How a command begins and ends: its messages shown, its errors one line and an exit code."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from engine import exits, interrupts
from engine.full_disk import DiskFullError
from engine.interrupts import Stopped, heeded
from engine.light import load_lightly

AGAIN = "run the same command again"
"""How any command goes on that was stopped, but for one that says more."""

_LOAD = Path("/proc/loadavg")
"""https://man7.org/linux/man-pages/man5/proc_loadavg.5.html"""

_HELD_BACK_S = 10.0
"""Seconds that a process that follows waits before it tells an error: the first one mostly has the
same to tell, and torchrun then ends this one."""


class Ranks(NamedTuple):
    """Which of how many processes of one training this is."""

    rank: int = 0
    size: int = 1


def ranks() -> Ranks:
    """As torchrun says in the environment; one alone, where nobody says so."""
    told = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")]
    if all(told):
        return Ranks(int(told[0] or 0), int(told[1] or 1))
    return Ranks()


def run_main(main: Callable[[], int], go_on: str = AGAIN, *, several: bool = False) -> NoReturn:
    """Run a command and exit: 2 for the user's mistakes, others for the world's (`engine.exits`).

    A mistake prints its message alone; an error nobody foresaw keeps its traceback. One that was
    stopped says how to `go_on`; its code is the signal's, 130 for Ctrl-C (see `interrupts`). Of
    several processes of one training the first alone talks; the others warn, with their number. A
    command that does not do its work by `several` is refused where there are.
    """
    start_logging()
    here = ranks()
    if here.size > 1:
        interrupts.heed_once(quietly=here.rank > 0)
    if here.rank:
        _follow_quietly(here)
    load_lightly()
    wait_asleep_where_busy()
    try:
        with heeded():
            if here.size > 1 and not several:
                raise ValueError("torchrun starts a training; call this command without it")
            code = main()
    except Stopped as stopped:
        if not here.rank:
            with suppress(OSError):  # a terminal that is gone
                print(error_line(stopped, go_on), file=sys.stderr)
        code = exits.SIGNALLED + stopped.signal
    except (ValueError, OSError, RuntimeError) as error:
        told = error_line(error, go_on)
        if here.rank:
            time.sleep(_HELD_BACK_S)
        if told is None:
            raise
        print(f"process {here.rank}: {told}" if here.rank else told, file=sys.stderr)
        code = exits.code_of(error)
    raise SystemExit(code)


def error_line(error: BaseException, go_on: str = AGAIN) -> str | None:
    """The message that a command ends with; None for an error nobody foresaw."""
    if isinstance(error, Stopped):
        return f"stopped by {error.signal.name}; to go on, {go_on}"
    if isinstance(error, ValueError | FileNotFoundError | RuntimeError | DiskFullError):
        return f"error: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        # Of a file, with its name: gone, forbidden, something else in its place.
        return f"error: {error.filename}: {error.strerror}"
    return None


def wait_asleep_where_busy() -> None:
    """Let threads that wait for each other sleep, where something else runs on this machine too.

    To be called before an OpenMP library is loaded, with PyTorch, for it looks once. By its own
    default such threads spin, and take the time of those that they wait for: on two cores, one of
    them taken, a step took more than 1.3 s, and 0.16 s where they sleep. Alone, waking them costs
    more: 0.18 s for 0.09 s. No result depends on it.
    """
    if _is_busy():
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def start_logging() -> None:
    """Print the INFO messages of engine and kernels to standard output, bare."""
    for name in ("engine", "kernels"):
        logger = logging.getLogger(name)
        logger.handlers = [_StdoutHandler()]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _follow_quietly(here: Ranks) -> None:
    """Say nothing but warnings, each with the number of this process."""
    name = f"process {here.rank} of {here.size}: "
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123, until the end
    warn = logging.StreamHandler(sys.stderr)
    warn.setLevel(logging.WARNING)
    warn.setFormatter(logging.Formatter(f"{name}%(message)s"))
    for logger in map(logging.getLogger, ("engine", "kernels")):
        logger.handlers = [warn]
    plain = warnings.formatwarning

    def named(*told: Any, **more: Any) -> str:
        return name + plain(*told, **more)

    warnings.formatwarning = named


def _is_busy() -> bool:
    """Whether others take more than a quarter of the cores: at this moment, and for a minute."""
    try:
        minute, _, _, tasks, _ = _LOAD.read_text("ascii").split()
    except OSError:  # not on Linux
        return False
    others = int(tasks.partition("/")[0]) - 1  # without this process, which runs
    return min(float(minute), others) > (os.cpu_count() or 1) / 4


class _StdoutHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the present `sys.stdout`, which a live bar replaces while it runs."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)
