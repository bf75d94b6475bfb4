"""Exit codes, for whoever starts commands: which call to repeat, and which would end the same.

Told in docs/troubleshooting.md. All but 0 and `MISTAKE` are worth another try: every command goes
on from what is there.
"""

import errno

DONE = 0

TROUBLE = 1
"""Something outside the program: a disk, a file server, memory, a package; or a bug's traceback."""

MISTAKE = 2
"""What was asked for cannot be done, however often it is tried."""

HELD = 75
"""Another process is at it: EX_TEMPFAIL of sysexits.h."""

LOST = 76
"""This process stood still, and another one took over what it was making."""

SIGNALLED = 128
"""And the signal's number: what was done is saved. 130 for Ctrl-C, 143 for SIGTERM."""

_TYPED = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
"""The system's errors of a path that was typed wrong, or is another user's."""


def is_typed(error: OSError) -> bool:
    """Whether an error may be a typed path's: a disk's or a file server's is no mistake."""
    return error.errno in _TYPED


def code_of(error: BaseException) -> int:
    """The code of what ended a command.

    An error class of ours may name its own, as `exit_code`. A FileNotFoundError in our own words is
    a mistake; what the system says of a file that was there a moment ago is not.
    """
    named = getattr(error, "exit_code", None)
    if isinstance(named, int):
        return named
    if isinstance(error, OSError):
        ours = isinstance(error, FileNotFoundError) and error.errno is None
        return MISTAKE if ours else TROUBLE
    return MISTAKE if isinstance(error, ValueError) else TROUBLE


def is_retried(code: int) -> bool:
    """Whether who supervises a command that ended with a code, or minus a signal, tries again."""
    return code not in (DONE, MISTAKE)
