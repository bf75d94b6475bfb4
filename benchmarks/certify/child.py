"""A section in a process of its own: what it finds and how it ends goes into a file."""

from pathlib import Path
from pkgutil import resolve_name

from benchmarks.certify.notes import Notes, NotHereError


def main(function: str, path: str, deadline_s: str) -> None:
    """Run "module:function" on the notes in `path`, until that moment of `time.monotonic`.

    An exception leaves its traceback in the section's log; what was found before it stays.
    """
    notes = Notes(Path(path), float(deadline_s))
    try:
        resolve_name(function)(notes)
        notes.close()
    except NotHereError as missing:
        notes.close("not here", str(missing))
