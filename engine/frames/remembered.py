"""What was found in a dataset's files, remembered from one check to the next.

    CACHE/checked-KEY.frames    SHA-256 of what follows, line break; JSON, line break; of each part
                                of the dataset rows (`engine.frames.findings`), then small pixels

The key is a hash of the dataset's folder and what reports depend on besides files.
"""

import hashlib
import json
import logging
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.frames.files import STATE, FrameList
from engine.frames.findings import Findings, row_type
from engine.frames.images import DECODERS
from engine.frames.kinds import KINDS, Origin
from engine.whole import whole_file

_log = logging.getLogger(__name__)

# It changes whenever the same files make another report, or the file another form.
_VERSION = 4


TICK_NS = 2_000_000_000
"""Writes that are further apart differ in time on every file system: FAT keeps times to 2 s."""

_ROWS = 4096
"""Rows that are written at a time: a few MB."""

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class CheckMemory:
    """What is remembered from one check to the next."""

    folder: Path | None = None
    """See `cache_folder`; None remembers nothing."""
    anew: bool = False
    """Read every file, whatever is remembered of it."""
    frame_bytes: int = 0
    """Training frames that have to be read are kept decoded if they have at most so many."""

    def recall(
        self, root: Path, parts: Sequence[FrameList], key: str, classes: int
    ) -> "Remembered":
        """What is known of the frames of a dataset's parts.

        `key` is all that reports depend on besides files.
        """
        states = len(KINDS) * STATE if self.folder else 0
        findings = [Findings.empty(root, frames, classes, states) for frames in parts]
        if self.folder is None:
            return Remembered(None, findings, [])
        # Times and inodes as they are now, before a file is read.
        settled_ns, sure = time.time_ns() - TICK_NS, []
        for frames, found in zip(parts, findings, strict=True):
            state_NK4, sure_N = frames.states(settled_ns)
            found.rows["state"] = state_NK4.reshape(len(frames), states)
            sure.append(sure_N)
        what = repr((_VERSION, DECODERS, str(root.resolve()), key)).encode()
        file = self.folder / f"checked-{hashlib.sha256(what).hexdigest()[:32]}.frames"
        note_use(file)
        kept = None if self.anew else _load(file, row_type(classes, states))
        if kept is not None:
            for frames, found, sure_N, part in zip(parts, findings, sure, kept, strict=True):
                _adopt(frames, found, sure_N, part)
        return Remembered(file, findings, sure)


class Remembered(NamedTuple):
    """What is known of the frames of one dataset."""

    file: Path | None
    findings: list[Findings]
    """By part: of frames whose files did not change; whoever reads the others adds theirs."""
    sure: list[NDArray[np.bool_]]
    """By part: frames whose files will be known again."""

    def save(self) -> None:
        """Write the reports without a fault; the log says if that fails."""
        if self.file is None:
            return
        chosen = []
        for found, sure_N in zip(self.findings, self.sure, strict=True):
            kept_N = found.known & sure_N
            kept_N[list(found.odd)] = False
            chosen.append(np.flatnonzero(kept_N))
        digest = hashlib.sha256()
        for piece in _pieces(self.findings, chosen):
            digest.update(piece)
        try:
            with whole_file(self.file) as temporary, temporary.open("wb") as stream:
                stream.write(digest.hexdigest().encode() + b"\n")
                for piece in _pieces(self.findings, chosen):
                    stream.write(piece)
        except OSError as error:
            _log.info("what was checked cannot be remembered: %s", error)


def note_use(file: Path) -> None:
    """Let a file's time be that of its latest use."""
    with suppress(OSError):  # not there, or another user's
        os.utime(file)


class _Part(NamedTuple):
    """What is kept of one part of a dataset."""

    stems: list[str]
    endings: list[str]
    """Of each frame's files, one behind another."""
    origins: list[Origin]
    rows: NDArray[np.void]
    small: memoryview


def _pieces(findings: Sequence[Findings], chosen: Sequence[NDArray[np.intp]]) -> Iterator[bytes]:
    """What is kept of the chosen frames, a few MB at a time."""
    parts = []
    for found, frames in zip(findings, chosen, strict=True):
        spans_N2 = found.rows["small"][frames]
        parts.append(
            {
                "stems": [found.frames[n].stem for n in frames.tolist()],
                "endings": [_endings(found.frames, n) for n in frames.tolist()],
                "origins": [asdict(origin) for origin in found.origins],
                "small": int((spans_N2[:, 1] - spans_N2[:, 0]).sum()),
            }
        )
    yield json.dumps(parts).encode() + b"\n"
    for found, frames in zip(findings, chosen, strict=True):
        end = 0
        for first in range(0, len(frames), _ROWS):
            rows = found.rows[frames[first : first + _ROWS]]
            lengths_N = rows["small"][:, 1] - rows["small"][:, 0]
            ends_N = end + np.cumsum(lengths_N)
            rows["small"] = np.stack([ends_N - lengths_N, ends_N], axis=1)
            end = int(ends_N[-1])
            yield rows.tobytes()
        for first in range(0, len(frames), _ROWS):
            spans = found.rows["small"][frames[first : first + _ROWS]].tolist()
            yield b"".join(found.small[begin:stop] for begin, stop in spans)


def _endings(frames: Sequence[Any], frame: int) -> str:
    assert isinstance(frames, FrameList)
    return "/".join(frames.ending(kind, frame) for kind in KINDS)


def _load(file: Path, kind: np.dtype[np.void]) -> list[_Part] | None:
    """What `save` wrote; None if it is not there or damaged."""
    try:
        with file.open("rb") as stream:
            told, digest = stream.readline(), hashlib.sha256()
            start = stream.tell()
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)
            if told.decode().strip() != digest.hexdigest():
                return None
            stream.seek(start)
            parts, at = json.loads(stream.readline()), stream.tell()
            whole = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        found = []
        for part in parts:
            rows = np.frombuffer(whole, kind, len(part["stems"]), at)
            at += rows.nbytes
            origins = [Origin(**{**one, "told": tuple(one["told"])}) for one in part["origins"]]
            small = whole[at : at + part["small"]]
            at += part["small"]
            found.append(_Part(part["stems"], part["endings"], origins, rows, small))
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _adopt(frames: FrameList, found: Findings, sure_N: NDArray[np.bool_], part: _Part) -> None:
    """Take what was kept of frames whose files did not change."""
    place = {stem: row for row, stem in enumerate(part.stems)}
    row_N = np.array([place.get(stem, -1) for stem in frames.stems], np.int64)
    same_N = (row_N >= 0) & sure_N
    for first in range(0, len(row_N), _ROWS):
        some = slice(first, first + _ROWS)
        taken_N = np.flatnonzero(same_N[some]) + first
        taken_N = taken_N[
            (part.rows["state"][row_N[taken_N]] == found.rows["state"][taken_N]).all(axis=1)
        ]
        taken = [n for n in taken_N.tolist() if part.endings[row_N[n]] == _endings(frames, n)]
        rows = part.rows[row_N[taken]]
        begin = len(found.small)
        spans = rows["small"].tolist()
        lengths_N = rows["small"][:, 1] - rows["small"][:, 0]
        found.small += b"".join(part.small[start:stop] for start, stop in spans)
        ends_N = begin + np.cumsum(lengths_N)
        rows["small"] = np.stack([ends_N - lengths_N, ends_N], axis=1)
        found.rows[taken] = rows
        found.known[taken] = True
    found.origins = part.origins or found.origins
