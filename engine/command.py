"""How a command begins and ends: its messages shown, its errors one line and an exit code."""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from engine.interrupts import Stopped, heeded

AGAIN = "run the same command again"
"""How any command goes on that was stopped, but for one that says more."""


def run_main(main: Callable[[], int], go_on: str = AGAIN) -> NoReturn:
    """Run a command and exit: 2 for the user's mistakes, 1 for the world's.

    A mistake prints its message alone; an error nobody foresaw keeps its traceback. One that was
    stopped says how to `go_on`; its code is the signal's, 130 for Ctrl-C (see `interrupts`).
    """
    start_logging()
    try:
        with heeded():
            code = main()
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1 if isinstance(error, RuntimeError) else 2
    except Stopped as stopped:
        with suppress(OSError):  # a terminal that is gone
            print(f"stopped by {stopped.signal.name}; to go on, {go_on}", file=sys.stderr)
        code = 128 + stopped.signal
    raise SystemExit(code)


def start_logging() -> None:
    """Print the engine's INFO messages to standard output, bare."""
    logger = logging.getLogger("engine")
    logger.handlers = [_StdoutHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _StdoutHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the present `sys.stdout`, which a live bar replaces while it runs."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)
