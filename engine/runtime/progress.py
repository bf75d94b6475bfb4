"""Progress of long work: a live bar on a terminal, plain lines elsewhere, time left on both."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_INTERVAL_S = 20.0
"""Seconds between two plain lines: a log of an hour stays readable."""


class Advance(Protocol):
    """Tell the progress that `count` more units are done, with a short note on the state."""

    def __call__(self, count: int, note: str = "") -> None:
        """Advance by `count`; an empty note leaves the last one."""


@contextmanager
def track(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show the progress of `total` units of work, of which `done` were done before.

    Yields:
        A function to call with each count of newly finished units.
    """
    console = Console()
    if not console.is_terminal:
        yield _PlainProgress(description, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(count: int, note: str = "") -> None:
            bar.update(task, advance=count)
            if note:
                bar.update(task, note=note)

        yield advance


@contextmanager
def track_total(description: str) -> Iterator[Callable[[int, int], None]]:
    """As `track`, for work that learns its total later.

    Yields:
        A function to call with (units done, units in all).
    """
    with ExitStack() as stack:
        advance: Advance | None = None
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal advance, shown
            if advance is None:
                advance = stack.enter_context(track(description, total))
            advance(done - shown)
            shown = done

        yield progress


class _PlainProgress:
    def __init__(self, description: str, total: int, done: int) -> None:
        self.description, self.total, self.done = description, total, done
        self.first = done
        self.start_s = self.shown_s = time.monotonic()

    def __call__(self, count: int, note: str = "") -> None:
        self.done += count
        now_s = time.monotonic()
        if now_s - self.shown_s < PLAIN_INTERVAL_S:
            return
        self.shown_s = now_s
        rate = (self.done - self.first) / (now_s - self.start_s)
        left = duration((self.total - self.done) / rate) if rate else "?"
        tail = f", {note}" if note else ""
        print(f"{self.description}: {self.done}/{self.total}, {left} left{tail}", flush=True)


def duration(seconds: float) -> str:
    """`7.2 s`, `3 min 05 s` or `1 h 02 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class _StdoutHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the present `sys.stdout`, which a live bar replaces while it runs."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


def start_logging() -> None:
    """Print the engine's INFO messages to standard output, bare."""
    handler = _StdoutHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("engine")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
