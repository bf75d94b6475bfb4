"""`log.txt` of a run folder: what each command said there, when, and on what; for people.

Every command appends. A line is one write to the end of the file, so that several processes that
share a run may do so at once; each line begins with the time (UTC) and the number of the process.
"""

import logging
import os
import platform
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from engine import exits
from engine.command import AGAIN, error_line
from engine.interrupts import Stopped
from engine.owner import host
from engine.rundir import RunDir
from engine.runtime.progress import duration
from engine.verbs import version

_log = logging.getLogger(__name__)

_LOGGERS = ("engine", "kernels")


@contextmanager
def logged(run: RunDir, command: str = "", go_on: str = AGAIN) -> Iterator[None]:
    """Append to the run's log what is said within: messages, warnings, and the error that ends it.

    What is said before the folder holds a run or a blend waits until it does: a command that is
    refused makes no folder. A folder that may not be written gets no log. Where writing fails, a
    warning says so once, and the command goes on.

    Args:
        run: the folder of a run or a blend.
        command: what was typed or called; empty = the process's own command line.
        go_on: what to type to go on, for one that is stopped.
    """
    handler, loggers = _ToFile(run), [logging.getLogger(name) for name in _LOGGERS]
    levels = [(logger, logger.level) for logger in loggers]
    start_s, show_before = time.monotonic(), warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        show_before(message, category, filename, lineno, file, line)
        handler.say("WARNING", f"{category.__name__}: {message} ({filename}:{lineno})")

    for logger in loggers:
        logger.addHandler(handler)
        if logger.getEffectiveLevel() > logging.INFO:  # called from Python, where nobody asked
            logger.setLevel(logging.INFO)
    warnings.showwarning = show
    try:
        handler.say("START", f"{command or _command_line()} (in {Path.cwd()})")
        handler.say("START", f"{version()}; on {host()}, {platform.platform()}")
        yield
        handler.say("END", f"after {duration(time.monotonic() - start_s)}")
    except SystemExit:  # another process says why
        raise
    except BaseException as error:
        handler.say("END", message_and_code(error, go_on)[0])
        raise
    finally:
        warnings.showwarning = show_before
        for logger, level in levels:
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()


def tell_end(run: RunDir, told: str) -> None:
    """Say what ends a command where no exception can: to standard error, and in the run's log."""
    with suppress(OSError):
        sys.stderr.write(f"error: {told}\n")
        sys.stderr.flush()
    handler = _ToFile(run)
    handler.say("END", f"error: {told}")
    handler.close()


def message_and_code(error: BaseException, go_on: str = AGAIN) -> tuple[str, int]:
    """What a command that an error ends says, with its traceback if nobody foresaw it; its code."""
    told = error_line(error, go_on)
    code = exits.code_of(error)
    if isinstance(error, Stopped):
        code = exits.SIGNALLED + error.signal
    return told or "".join(traceback.format_exception(error)).rstrip(), code


class _ToFile(logging.Handler):
    """Appends to the log of a run, as soon as there is one."""

    def __init__(self, run: RunDir) -> None:
        super().__init__(logging.INFO)
        self._run = run
        self._waiting: list[str] = []
        self._descriptor: int | None = None
        self._given_up = False

    def emit(self, record: logging.LogRecord) -> None:
        """Append a message."""
        self.say(record.levelname, record.getMessage())

    def say(self, kind: str, text: str) -> None:
        """Append a line; further lines of the text stand indented below it."""
        if self._given_up:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = text.replace("\n", "\n    ")
        self._waiting.append(f"{now} {os.getpid()} {kind} {body}\n")
        try:
            self._write()
        except OSError as error:
            # First, for this handler is given the warning too.
            self._given_up = True
            told = "%s cannot be written (%s): what this command says from here on is not in it"
            _log.warning(told, self._run.log, error.strerror)

    def close(self) -> None:
        """Give the file back; what waits for a run that did not come to be is dropped."""
        self._given_up = True
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
        super().close()

    def _write(self) -> None:
        if self._descriptor is None:
            if not (self._run.config.is_file() or self._run.blend.is_file()):
                return
            if not os.access(self._run.root, os.W_OK):
                self._given_up = True
                return
            mode = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._descriptor = os.open(self._run.log, mode, 0o666)
        while self._waiting:
            os.write(self._descriptor, self._waiting[0].encode(errors="backslashreplace"))
            del self._waiting[0]


def _command_line() -> str:
    """What the process was started with."""
    python, *arguments = sys.orig_argv or [sys.executable]
    return shlex.join([Path(python).name, *arguments])
