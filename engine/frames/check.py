"""Check the files of a frame while they are decoded, count what they hold, and remember it.

    CACHE/checked-KEY.json    SHA-256 of what follows, line break, reports by state of files

The key names the folder, the classes and the version of the check: files that did not change are
not read again. C: number of classes. K: number of kept small-class pixels of a frame.
"""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from engine.frames.decode import DECODERS, Frame, UnfitError, decode, fault_of
from engine.frames.listing import KINDS, Fault, FrameFiles
from engine.nyuv2 import IGNORE_INDEX
from engine.rundir import whole_file

_log = logging.getLogger(__name__)

MAX_SMALL_PIXELS = 256
"""Kept small-class pixels of a frame: enough to centre crops on, a few MB over a whole dataset."""

VERSION = 1
"""Changes whenever the check finds something else in the same files."""

TICK_NS = 2_000_000_000
"""Writes that are further apart differ in time on every file system: FAT keeps times to 2 s."""


@dataclass
class FrameReport:
    """What one frame holds, in types that a file can keep; meaningful while `faults` is empty."""

    hw: tuple[int, int] = (0, 0)
    digests: list[tuple[str, str]] = field(default_factory=list)
    """Relative name and SHA-256, in hexadecimal, of every file."""
    class_pixels: list[int] = field(default_factory=list)
    """C counts of labelled pixels; empty without a label."""
    ignored_pixels: int = 0
    missing_depth: float | None = None
    """Share of pixels without depth, 0..1; None without a depth map."""
    small_pixels: list[int] = field(default_factory=list)
    """2 K numbers: row and column of one pixel of the small classes after another."""
    faults: list[Fault] = field(default_factory=list)


_REPORTS = TypeAdapter(dict[str, FrameReport])


def check_frame(
    root: Path, files: FrameFiles, classes: int, small: Sequence[int]
) -> tuple[FrameReport, Frame | None]:
    """Decode every file of a frame; every fault is found, none hides another.

    Args:
        root: dataset folder, which names in faults and digests are relative to.
        files: what exists of the frame.
        classes: labels must be below it or `IGNORE_INDEX`.
        small: class indices whose pixels are kept for class-aware crops.

    Returns:
        What was found, and the decoded frame; None where it has faults or no image.
    """
    report = FrameReport()
    names = {kind: path.relative_to(root).as_posix() for kind, path in files.present.items()}
    pixels: dict[str, NDArray[Any]] = {}
    for kind, path in files.present.items():
        try:
            content = path.read_bytes()
            pixels[kind] = decode(content, KINDS[kind])
        except (OSError, UnfitError) as error:
            report.faults.append(Fault(names[kind], fault_of(error), KINDS[kind].expected))
        else:
            report.digests.append((names[kind], hashlib.sha256(content).hexdigest()))
    # The image sets the size; where it cannot be read, depth and label still check each other.
    sizes = {kind: (part.shape[0], part.shape[1]) for kind, part in pixels.items()}
    first, report.hw = next(iter(sizes.items()), ("", (0, 0)))
    for kind, hw in sizes.items():
        if hw != report.hw:
            found, expected = (f"{w} x {h} pixels" for h, w in (hw, report.hw))
            expected = f"{expected}, the size of {names[first]}"
            report.faults.append(Fault(names[kind], found, expected))
    if "depth" in pixels:
        report.missing_depth = float(np.mean(pixels["depth"] == 0))
    if "label" in pixels:
        _count(names["label"], pixels["label"], classes, small, report)
    if "image" not in pixels or report.faults:
        return report, None
    return report, Frame(pixels["image"], pixels.get("depth"), pixels.get("label"))


@dataclass(frozen=True)
class CheckMemory:
    """Where what was checked is remembered and decoded frames are kept."""

    folder: Path | None = None
    """See `cache_folder`; None remembers nothing."""
    anew: bool = False
    """Read every file, whatever is remembered of it."""
    frame_bytes: int = 0
    """Training frames that have to be read are kept decoded if all have at most so many bytes."""

    def recall(self, root: Path, frames: Sequence[FrameFiles], key: str) -> "Remembered":
        """What is known of a dataset's files; `key` is all that reports depend on besides them."""
        if self.folder is None:
            return Remembered(None, {}, {})
        what = repr((VERSION, DECODERS, str(root.resolve()), key)).encode()
        file = self.folder / f"checked-{hashlib.sha256(what).hexdigest()[:32]}.json"
        states = {files: _state(files) for files in frames}
        known = {} if self.anew else _load(file)
        reports = {files: known[state] for files, state in states.items() if state in known}
        return Remembered(file, states, reports)


@dataclass(frozen=True)
class Remembered:
    """What is known of the frames of one dataset."""

    file: Path | None
    states: dict[FrameFiles, str]
    reports: dict[FrameFiles, FrameReport]
    """Of frames whose files did not change; whoever reads the others adds theirs."""

    def save(self) -> None:
        """Write the reports without a fault; the log says if that fails."""
        if self.file is None:
            return
        sound = {
            self.states[files]: report
            for files, report in self.reports.items()
            if self.states[files] and not report.faults
        }
        content = _REPORTS.dump_json(sound)
        try:
            with whole_file(self.file) as temporary:
                temporary.write_bytes(_digest(content) + b"\n" + content)
        except OSError as error:
            _log.info("what was checked cannot be remembered: %s", error)


def cache_folder(configured: str = "") -> Path:
    """Where `runtime.cache` says, or where this platform keeps what can be made again."""
    if configured:
        return Path(configured).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "roomsmith"
    # https://specifications.freedesktop.org/basedir-spec/latest/
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return base / "roomsmith"


def _count(
    name: str, label: NDArray[Any], classes: int, small: Sequence[int], report: FrameReport
) -> None:
    counts = np.bincount(label.ravel(), minlength=256)
    strays = [value for value in np.flatnonzero(counts) if classes <= value != IGNORE_INDEX]
    if strays:
        shown = ", ".join(str(value) for value in strays[:5]) + (", ..." if strays[5:] else "")
        found = f"label {shown} in {int(counts[strays].sum())} pixels"
        report.faults.append(Fault(name, found, f"0..{classes - 1} or {IGNORE_INDEX}"))
    report.class_pixels = counts[:classes].tolist()
    report.ignored_pixels = int(counts[IGNORE_INDEX])
    # Of each class an equal quota, spread evenly over its pixels in raster order.
    quota = MAX_SMALL_PIXELS // max(1, len(small))
    for index in small:
        places = np.flatnonzero(label == index) if counts[index] else np.zeros(0, np.int64)
        if len(places) > quota:
            places = places[(2 * np.arange(quota) + 1) * len(places) // (2 * quota)]
        rows_columns = np.stack(np.divmod(places, label.shape[1]), axis=1)
        report.small_pixels += rows_columns.ravel().tolist()


def _state(files: FrameFiles) -> str:
    """Names, sizes, times and inodes of a frame's files: while they last, so does the content.

    Empty if a file was written so lately that another write within the same tick of the clock would
    leave the same times (https://git-scm.com/docs/racy-git), or cannot be looked at.
    """
    parts, settled_ns = [], time.time_ns() - TICK_NS
    for path in files.present.values():
        try:
            found = path.stat()
        except OSError:
            return ""  # whoever reads the file says what is wrong with it
        if max(found.st_mtime_ns, found.st_ctime_ns) >= settled_ns:
            return ""
        numbers = found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
        parts.append(f"{path.parent.name}/{path.name} {numbers}")
    return "; ".join(parts)


def _load(file: Path) -> dict[str, FrameReport]:
    """What `save` wrote; nothing if it is not there or damaged."""
    try:
        digest, _, content = file.read_bytes().partition(b"\n")
        return _REPORTS.validate_json(content) if digest == _digest(content) else {}
    except (OSError, ValueError):
        return {}


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
