"""What a check found in very many frames, in columns: a report is made when it is asked for.

N: frames. C: classes.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from engine.frames.decode import FrameFiles
from engine.frames.depth import DepthSpread
from engine.frames.kinds import AS_IT_IS, KINDS, FrameReport, Origin
from engine.frames.thumbnail import CELLS_HW

_SPREAD = tuple(each.name for each in fields(DepthSpread))
_MOST = 1 << 16
"""Rows or columns from which on a frame's report is kept as it is."""


def row_type(classes: int, states: int) -> np.dtype[np.void]:
    """The type of a row: what is found in a frame, and `states` numbers that tell of its files."""
    return np.dtype(
        [
            ("state", "<i8", (states,)),
            ("hw", "<i4", (2,)),
            ("digest", "u1", (len(KINDS), 32)),
            ("digests", "u1"),  # a bit a kind: which there are
            ("has", "u1"),  # bits: class pixels, missing depth, spread of depth, thumbnail
            ("origin", "<u2"),
            ("class_pixels", "<i8", (classes,)),
            ("ignored", "<i8"),
            ("missing_depth", "<f8"),
            ("depth", "<i8", (len(_SPREAD),)),
            ("thumbnail", "u1", (*CELLS_HW, 3)),
            ("small", "<i8", (2,)),  # where its small pixels begin and end
        ]
    )


_CLASSES, _MISSING, _DEPTH, _THUMBNAIL = 1, 2, 4, 8


@dataclass(eq=False)
class Findings(Sequence[FrameReport]):
    """Reports of N frames, some of which may be missing yet; about a kilobyte each."""

    root: Path
    """What names in reports are relative to."""
    frames: Sequence[FrameFiles]
    rows: NDArray[np.void]
    """(N,) of `row_type`."""
    small: bytearray = field(default_factory=bytearray)
    """Rows and columns of small pixels, two bytes each, of one frame after another."""
    origins: list[Origin] = field(default_factory=lambda: [AS_IT_IS])
    """That there are."""
    known: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(N,) of which frames there is a report."""
    odd: dict[int, FrameReport] = field(default_factory=dict)
    """Reports that do not fit a row: with faults, or of enormous frames."""

    @classmethod
    def empty(
        cls, root: Path, frames: Sequence[FrameFiles], classes: int, states: int
    ) -> "Findings":
        """None known yet."""
        rows = np.zeros(len(frames), row_type(classes, states))
        return cls(root, frames, rows, known=np.zeros(len(frames), np.bool_))

    def put(self, frame: int, report: FrameReport) -> None:
        """Note what was found in a frame."""
        self.known[frame] = True
        if report.faults or max(report.hw) > _MOST:
            self.odd[frame] = report
            return
        row, has = self.rows[frame], 0
        row["hw"] = report.hw
        kinds = [kind for kind in KINDS if getattr(self.frames[frame], kind) is not None]
        row["digests"] = sum(1 << tuple(KINDS).index(kind) for kind in kinds)
        for kind, (_, digest) in zip(kinds, report.digests, strict=True):
            row["digest"][tuple(KINDS).index(kind)] = np.frombuffer(bytes.fromhex(digest), np.uint8)
        if report.class_pixels:
            has |= _CLASSES
            row["class_pixels"] = report.class_pixels
        row["ignored"] = report.ignored_pixels
        if report.missing_depth is not None:
            has |= _MISSING
            row["missing_depth"] = report.missing_depth
        if report.depth is not None:
            has |= _DEPTH
            row["depth"] = [getattr(report.depth, name) for name in _SPREAD]
        if report.thumbnail:
            has |= _THUMBNAIL
            cells = np.frombuffer(base64.b64decode(report.thumbnail), np.uint8)
            row["thumbnail"] = cells.reshape(*CELLS_HW, 3)
        if report.origin not in self.origins:
            self.origins.append(report.origin)
        row["origin"], row["has"] = self.origins.index(report.origin), has
        begin = len(self.small)
        self.small += np.array(report.small_pixels, "<u2").tobytes()
        row["small"] = begin, len(self.small)

    def small_pixels(self, frame: int) -> NDArray[np.int32]:
        """(K, 2) row and column of pixels of the small classes."""
        if frame in self.odd:
            return np.array(self.odd[frame].small_pixels, np.int32).reshape(-1, 2)
        begin, end = self.rows["small"][frame].tolist()
        return (
            np.frombuffer(memoryview(self.small)[begin:end], "<u2").reshape(-1, 2).astype(np.int32)
        )

    def hw(self, frame: int) -> tuple[int, int]:
        """Height and width of a frame."""
        if frame in self.odd:
            return self.odd[frame].hw
        height, width = self.rows["hw"][frame].tolist()
        return height, width

    def origin(self, frame: int) -> Origin:
        """Of a frame's image."""
        odd = self.odd.get(frame)
        return odd.origin if odd else self.origins[self.rows["origin"][frame]]

    def content(self, frame: int) -> bytes:
        """The digests of a frame's files, one behind another."""
        if frame in self.odd:
            return b"".join(bytes.fromhex(digest) for _, digest in self.odd[frame].digests)
        row = self.rows[frame]
        return b"".join(row["digest"][n].tobytes() for n in self._kinds(row))

    def digest(self, frame: int, kind: str) -> bytes | None:
        """The digest of a file, if there is one."""
        if frame in self.odd:
            names = dict(zip(self.frames[frame].present, self.odd[frame].digests, strict=True))
            return bytes.fromhex(names[kind][1]) if kind in names else None
        row, column = self.rows[frame], tuple(KINDS).index(kind)
        return row["digest"][column].tobytes() if row["digests"] >> column & 1 else None

    def replace(self, originals: Mapping[str, str]) -> None:
        """Put other digests in the place of some, in hexadecimal."""
        new = {bytes.fromhex(old): bytes.fromhex(one) for old, one in originals.items()}
        for row in self.rows:
            for column in self._kinds(row):
                if one := new.get(row["digest"][column].tobytes()):
                    row["digest"][column] = np.frombuffer(one, np.uint8)
        for report in self.odd.values():
            report.digests = [(name, originals.get(one, one)) for name, one in report.digests]

    def _kinds(self, row: Any) -> list[int]:
        return [n for n in range(len(KINDS)) if int(row["digests"]) >> n & 1]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, frame: int) -> FrameReport: ...
    @overload
    def __getitem__(self, frame: slice) -> list[FrameReport]: ...

    def __getitem__(self, frame: int | slice) -> FrameReport | list[FrameReport]:
        if isinstance(frame, slice):
            return [self[n] for n in range(*frame.indices(len(self)))]
        frame = range(len(self))[frame]
        if frame in self.odd:
            return self.odd[frame]
        row, files = self.rows[frame], self.frames[frame]
        has, kinds = int(row["has"]), list(KINDS)
        names = [
            (path.relative_to(self.root).as_posix(), row["digest"][kinds.index(kind)].tobytes())
            for kind, path in files.present.items()
        ]
        thumbnail = base64.b64encode(row["thumbnail"].tobytes()) if has & _THUMBNAIL else b""
        height, width = row["hw"].tolist()
        return FrameReport(
            (height, width),
            [(name, digest.hex()) for name, digest in names],
            self.origins[row["origin"]],
            row["class_pixels"].tolist() if has & _CLASSES else [],
            int(row["ignored"]),
            float(row["missing_depth"]) if has & _MISSING else None,
            self.small_pixels(frame).ravel().tolist(),
            DepthSpread(*row["depth"].tolist()) if has & _DEPTH else None,
            thumbnail=thumbnail.decode(),
        )

    def __iter__(self) -> Iterator[FrameReport]:
        return (self[frame] for frame in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def thumbnails(reports: Sequence[FrameReport]) -> NDArray[np.uint8]:
    """(N, 9, 12, 3) RGB; ValueError if a report has none, as those of frames without a label."""
    if isinstance(reports, Findings) and not reports.odd:
        if not (reports.rows["has"] & _THUMBNAIL).all():
            raise ValueError("some frames were not made a thumbnail of")
        return reports.rows["thumbnail"]
    content = b"".join(base64.b64decode(report.thumbnail) for report in reports)
    return np.frombuffer(content, np.uint8).reshape(len(reports), *CELLS_HW, 3)
