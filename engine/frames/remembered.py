"""What was found in a dataset's files, remembered from one check to the next.

    CACHE/checked-KEY.json    SHA-256 of what follows, line break, reports by state of files

The key is a hash of the dataset's folder and what reports depend on besides files.
"""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from engine.frames.dataset import Reports
from engine.frames.decode import FrameFiles
from engine.frames.images import DECODERS
from engine.frames.kinds import FrameReport
from engine.whole import whole_file

_log = logging.getLogger(__name__)

# It changes whenever the same files make another report.
_VERSION = 3


TICK_NS = 2_000_000_000
"""Writes that are further apart differ in time on every file system: FAT keeps times to 2 s."""


_REPORTS = TypeAdapter(dict[str, FrameReport])


@dataclass(frozen=True)
class CheckMemory:
    """What is remembered from one check to the next."""

    folder: Path | None = None
    """See `cache_folder`; None remembers nothing."""
    anew: bool = False
    """Read every file, whatever is remembered of it."""
    frame_bytes: int = 0
    """Training frames that have to be read are kept decoded if they have at most so many."""

    def recall(self, root: Path, frames: Sequence[FrameFiles], key: str) -> "Remembered":
        """What is known of a dataset's files; `key` is all that reports depend on besides them."""
        if self.folder is None:
            return Remembered(None, {}, {})
        what = repr((_VERSION, DECODERS, str(root.resolve()), key)).encode()
        file = self.folder / f"checked-{hashlib.sha256(what).hexdigest()[:32]}.json"
        note_use(file)
        states = {files: _state(files) for files in frames}
        known = {} if self.anew else _load(file)
        reports = {files: known[state] for files, state in states.items() if state in known}
        return Remembered(file, states, reports)


@dataclass(frozen=True)
class Remembered:
    """What is known of the frames of one dataset."""

    file: Path | None
    states: dict[FrameFiles, str]
    reports: Reports
    """Of frames whose files did not change; whoever reads the others adds theirs."""

    def save(self) -> None:
        """Write the reports without a fault; the log says if that fails."""
        if self.file is None:
            return
        reports = ((self.states[files], report) for files, report in self.reports.items())
        sound = {state: report for state, report in reports if state and not report.faults}
        content = _REPORTS.dump_json(sound)
        digest = hashlib.sha256(content).hexdigest().encode()
        try:
            with whole_file(self.file) as temporary:
                temporary.write_bytes(digest + b"\n" + content)
        except OSError as error:
            _log.info("what was checked cannot be remembered: %s", error)


def note_use(file: Path) -> None:
    """Let a file's time be that of its latest use."""
    with suppress(OSError):  # not there, or another user's
        os.utime(file)


def _state(files: FrameFiles) -> str:
    """Names, sizes, times and inodes of a frame's files: while they last, so does the content.

    Empty if one cannot be looked at, or was written in a tick of the clock that another write might
    share (https://git-scm.com/docs/racy-git).
    """
    parts, settled_ns = [], time.time_ns() - TICK_NS
    with suppress(OSError):  # whoever reads the file says what is wrong with it
        for path in files.present.values():
            told = path.stat()
            times = told.st_mtime_ns, told.st_ctime_ns
            if max(times) >= settled_ns:
                return ""
            name = f"{path.parent.name}/{path.name}"
            parts.append(f"{name} {(told.st_size, *times, told.st_ino)}")
        return "; ".join(parts)
    return ""


def _load(file: Path) -> dict[str, FrameReport]:
    """What `save` wrote; nothing if it is not there or damaged."""
    try:
        digest, _, content = file.read_bytes().partition(b"\n")
        sound = digest.decode() == hashlib.sha256(content).hexdigest()
        return _REPORTS.validate_json(content) if sound else {}
    except (OSError, ValueError):
        return {}
