"""Signals that ask a command to end: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is gone.

Work that should not be lost runs within `at_checkpoints`: it goes on until it has written its state
and calls `checkpoint`. Everything else is stopped where it is, which no stage minds. A second
signal ends the process at once, which none minds either; but a SIGTERM that follows another one
within `TWICE_S` is the same: schedulers send it to a process and to its group, and launchers pass
it on to what they started.
"""

import errno
import os
import signal
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

TWICE_S = 5.0
"""Seconds in which whoever ends a job is done with telling all its processes."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""That ask."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


class _State:
    asked: int = 0
    """The signal that came."""
    asked_at_s: float = 0
    """When, by the monotonic clock."""
    waiting: bool = False
    """Whether it waits for a checkpoint."""
    once: bool = False
    """Whether a second signal changes nothing."""
    quiet: bool = False
    """Whether somebody else says what comes of it."""


_state = _State()

_lost: set[str] = set()
"""Leases of this process that another one has taken over."""


@contextmanager
def heeded() -> Iterator[None]:
    """Let signals end what runs within by `Stopped`; an ignored one (`nohup`) stays ignored."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: was for number, was in handlers.items() if was not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, _stop)
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT) from None
    finally:
        _state.asked, _state.waiting = 0, False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def at_checkpoints() -> Iterator[None]:
    """Let a signal wait, within, for the next `checkpoint`."""
    outer, _state.waiting = _state.waiting, True
    try:
        yield
    finally:
        _state.waiting = outer


def heed_once(*, quietly: bool) -> None:
    """Let no second signal end this process at once, for it is one of several.

    They get one from whoever started them when another of them has ended, and from a batch system
    beside that; what has to be saved is being saved then. Perhaps `quietly`: another one talks.
    """
    _state.once, _state.quiet = True, quietly


def is_asked() -> bool:
    """Whether the next `checkpoint` stops: what is to last is written before it."""
    return bool(_state.asked or _lost)


def checkpoint() -> None:
    """Stop here if a signal came: all that is to last is written.

    A RuntimeError if the lease is lost, which `engine.lease.hold` puts in its own words.
    """
    if _lost:
        raise RuntimeError("another process has taken over what this one was making")
    if _state.asked:
        raise Stopped(_state.asked)


def lose(lease: str) -> None:
    """Note, from any thread, that the next `checkpoint` ends work that nobody will read."""
    _lost.add(lease)


def forget_loss(lease: str) -> None:
    """Note that the work on what a lease covered has ended."""
    _lost.discard(lease)


def stop() -> NoReturn:
    """Stop here, for this process or another that works with it was asked to."""
    raise Stopped(_state.asked or signal.SIGTERM)


def _stop(number: int, _: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _leave_terminal()
        if _state.asked:  # shell and system may both send it: never the second one
            return
    now_s = time.monotonic()
    again = number == _state.asked == signal.SIGTERM and now_s - _state.asked_at_s < TWICE_S
    if _state.asked and (_state.once or again):
        return
    if _state.asked:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _state.asked, _state.asked_at_s = number, now_s
    if not _state.waiting:
        raise Stopped(number)
    if _state.quiet:
        return
    more = "" if _state.once else "; once more: at once"
    told = f"{signal.Signals(number).name}: stopping after this step{more}\n"
    with suppress(OSError):  # not print, which may be what it interrupts
        os.write(2, told.encode())


def _leave_terminal() -> None:
    """Send what is printed nowhere, where the terminal is gone: each line would be an error."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
