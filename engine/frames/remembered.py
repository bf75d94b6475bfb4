"""What was found in a dataset's files, remembered from one check to the next.

    CACHE/checked-KEY.frames    SHA-256 of what follows, line break; JSON, line break; of each part
                                of the dataset rows (`engine.frames.findings`), then small pixels

The key is a hash of the dataset's folder and what reports depend on besides files.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
        if not self.anew:
            # It may be damaged, or not there: what is not adopted is read.
            with suppress(OSError, ValueError, KeyError, TypeError), file.open("rb") as stream:
                kept = _load(stream, row_type(classes, states))
                for each in zip(kept, parts, findings, sure, strict=True):
                    _adopt(stream, *each)
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
    rows_at: int
    """Where its rows begin in the file."""
    small_at: int
    """Where its small pixels begin."""


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


def _load(stream: BinaryIO, kind: np.dtype[np.void]) -> list[_Part]:
    """Where in a file that `save` wrote its parts are; ValueError if it is damaged."""
    told, digest = stream.readline(), hashlib.sha256()
    start = stream.tell()
    while piece := stream.read(_PIECE_BYTES):
        digest.update(piece)
    if told.decode().strip() != digest.hexdigest():
        raise ValueError("it does not fit its checksum")
    stream.seek(start)
    parts, at, found = json.loads(stream.readline()), stream.tell(), []
    for part in parts:
        rows_at, at = at, at + len(part["stems"]) * kind.itemsize
        origins = [Origin(**{**one, "told": tuple(one["told"])}) for one in part["origins"]]
        found.append(_Part(part["stems"], part["endings"], origins, rows_at, at))
        at += part["small"]
    return found


def _adopt(
    stream: BinaryIO, part: _Part, frames: FrameList, found: Findings, sure_N: NDArray[np.bool_]
) -> None:
    """Take what was kept of frames whose files did not change, a few MB at a time."""
    # Mostly the same frames: then none is looked up, which of very many takes longer for each.
    is_same = part.stems == frames.stems
    place = {} if is_same else {stem: frame for frame, stem in enumerate(frames.stems)}
    kind = found.rows.dtype
    for first in range(0, len(part.stems), _ROWS):
        stems = part.stems[first : first + _ROWS]
        stream.seek(part.rows_at + first * kind.itemsize)
        rows = np.frombuffer(stream.read(len(stems) * kind.itemsize), kind)
        # One behind another, as the rows are.
        start, stop = int(rows["small"][0, 0]), int(rows["small"][-1, 1])
        stream.seek(part.small_at + start)
        small = memoryview(stream.read(stop - start))
        at = range(first, first + len(stems)) if is_same else [place.get(s, -1) for s in stems]
        frame_M = np.array(at, np.int64)
        row_K = np.flatnonzero(frame_M >= 0)
        row_K = row_K[sure_N[frame_M[row_K]]]
        now = found.rows["state"][frame_M[row_K]]
        row_K = row_K[(rows["state"][row_K] == now).all(axis=1)]
        endings = part.endings[first : first + _ROWS]
        same = [n for n in row_K.tolist() if endings[n] == _endings(frames, int(frame_M[n]))]
        rows, taken = rows[same], frame_M[same]
        spans_K2 = rows["small"]
        end = len(found.small)
        found.small += b"".join(small[a - start : b - start] for a, b in spans_K2.tolist())
        lengths_K = spans_K2[:, 1] - spans_K2[:, 0]
        ends_K = end + np.cumsum(lengths_K)
        rows["small"] = np.stack([ends_K - lengths_K, ends_K], axis=1)
        found.rows[taken] = rows
        found.known[taken] = True
    found.origins = part.origins or found.origins
