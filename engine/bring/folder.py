"""Any source is written as a folder that the engine reads, frame by frame; a stopped one goes on.

Until all is done it is `OUT.unfinished`, which is no dataset; then it gets its name at once.
`SHA256SUMS` grows with it: a frame is done if its files are what that says.
"""

import csv
import hashlib
import io
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tomli_w
from numpy.typing import NDArray
from PIL import Image
from pydantic import JsonValue

from engine.bring.source import Frame, Pixels, Source
from engine.frames.dataset import Progress
from engine.full_disk import refuse_full
from engine.lease import Place, hold
from engine.mistakes import ConfigError
from engine.rundir import Record
from engine.whole import sync_folder

_log = logging.getLogger(__name__)

SUMS, MADE_OF, DATASET = "SHA256SUMS", "prepared.json", "dataset.toml"
SPLITS = "splits.csv"

_LEVELS = {"image": 1, "depth": 3, "label": 6}
"""Of zlib: noise hardly compresses, and level 1 takes a third of the time of 6 for 6 % more."""


class Prepared(Record):
    """`prepared.json`: what a folder was made of, and by which options."""

    made_of: dict[str, JsonValue]
    frames: int


class Written(NamedTuple):
    """What became of a folder."""

    frames: int
    kept: int
    """Of them those that an earlier call had done, found whole."""
    spoilt: int
    """Frames of an earlier call that were not whole, and were made again."""
    size: int
    """Bytes of all files."""


def write_folder(
    source: Source, out: Path, *, workers: int, progress: Progress | None = None
) -> Written | None:
    """Write the frames of a source into `out`; None: they are there already.

    Pixels become PNGs; files are copied. What an earlier call left is hashed, and kept if it is
    whole. Beside the frames there are `scenes.csv` and `splits.csv`, if the source says anything of
    them, `dataset.toml` with what it says of `[data]`, `prepared.json` and `SHA256SUMS`.

    Args:
        source: what is written.
        out: folder to create.
        workers: threads that write.
        progress: called after each frame.

    Raises:
        ConfigError: `out` or what was left holds something else, or the source has a fault.
        DiskFullError: there is no room.
        HeldError: another process writes it.
    """
    _check_frames(source.frames)
    made = Prepared(made_of=dict(source.made_of), frames=len(source.frames))
    if _is_there(out, made):
        return None
    part = out.with_name(f"{out.name}.unfinished")
    with hold(Place(out.parent, out.name, str(out), ())):
        if _is_there(out, made):
            return None
        try:
            _begin(part, made, out)
            writer = _Writer(source, part, _listed(part / SUMS))
            written = writer.write(workers, progress)
            _describe(source, part)
        except OSError as error:
            refuse_full(error, part / "probe.tmp", part)
            raise
        os.sync()  # what gets its name is on disk: one wait for all files
        part.rename(out)
        sync_folder(out.parent)
    return written


@dataclass(frozen=True)
class _Writer:
    """A folder that is written."""

    source: Source
    part: Path
    sums: dict[str, str]
    """SHA-256 of files of an earlier call, by name."""

    def write(self, workers: int, progress: Progress | None) -> Written:
        """Write all frames, and note each when its files are there."""
        total, kept, spoilt = len(self.source.frames), 0, 0
        for frame in self.source.frames:
            for kind in ("image", "depth", "label"):
                (self.part / frame.split / kind).mkdir(parents=True, exist_ok=True)
        by_frame: dict[str, list[str]] = {}
        for name in self.sums:
            by_frame.setdefault(_frame_of(name), []).append(name)
        with (
            (self.part / SUMS).open("a", encoding="utf-8") as stream,
            closing(_in_turn(lambda n: self._frame(n, by_frame), total, workers)) as results,
        ):
            for number, (sums, state) in enumerate(results, start=1):
                kept += state == "kept"
                spoilt += state == "spoilt"
                if state != "kept":
                    stream.write("".join(f"{sums[name]}  {name}\n" for name in sums))
                    stream.flush()
                self.sums.update(sums)
                if progress is not None:
                    progress(number, total)
        for folder in self.part.glob("*/*/"):
            if not any(folder.iterdir()):  # of no frame
                folder.rmdir()
        size = sum((self.part / name).stat().st_size for name in self.sums)
        return Written(total, kept, spoilt, size)

    def _frame(self, number: int, by_frame: Mapping[str, Sequence[str]]) -> "_Made":
        frame = self.source.frames[number]
        names = by_frame.get(f"{frame.split}/{frame.stem}", [])
        if names and all(_is_whole(self.part / name, self.sums[name]) for name in names):
            return {name: self.sums[name] for name in names}, "kept"
        pixels = self.source.read(number)
        _check_sizes(frame, pixels)
        sums = {}
        for kind, found in pixels._asdict().items():
            if found is None:
                continue
            ending = found.suffix.lower() if isinstance(found, Path) else ".png"
            name = f"{frame.split}/{kind}/{frame.stem}{ending}"
            sums[name] = _write(self.part / name, found, _LEVELS[kind])
        return sums, "spoilt" if names else "made"


_Made = tuple[dict[str, str], str]
"""SHA-256 of a frame's files by name, and whether they were kept, spoilt or made."""


def _in_turn(make: Callable[[int], _Made], count: int, workers: int) -> Generator[_Made]:
    """What is made of 0, 1, ... by threads, in order; few wait in memory."""
    pool, waiting = ThreadPoolExecutor(workers), deque[Future[_Made]]()
    try:
        for number in range(count):
            waiting.append(pool.submit(make, number))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write(path: Path, found: Path | NDArray[Any], level: int) -> str:
    """Write a file that is there whole or not at all; its SHA-256."""
    if isinstance(found, Path):
        content = found.read_bytes()
    else:
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(found)).save(stream, "PNG", compress_level=level)
        content = stream.getvalue()
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
    return hashlib.sha256(content).hexdigest()


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _listed(path: Path) -> dict[str, str]:
    """SHA-256 by name, as `sha256sum` writes it; the last line may be torn."""
    if not path.is_file():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        path.write_bytes(whole)
    lines = (line.split("  ", 1) for line in whole.decode("utf-8").splitlines())
    return {name: digest for digest, name in lines}


def _frame_of(name: str) -> str:
    """`train/000001` of `train/image/000001.png`."""
    split, _, file = name.split("/")
    return f"{split}/{file.rpartition('.')[0]}"


def _is_there(out: Path, made: Prepared) -> bool:
    """Whether `out` holds this already; anything else that it holds is an error."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    told = out / MADE_OF
    if not told.is_file():
        raise ConfigError(f"{out} exists and was not written by this command; name a new folder")
    if (before := Prepared.read(told)) != made:
        raise ConfigError(f"{out} was made otherwise ({_other(before, made)}); name a new folder")
    return True


def _begin(part: Path, made: Prepared, out: Path) -> None:
    """Make the folder, or find that what is there is the same one's beginning."""
    told = part / MADE_OF
    if told.is_file():
        if (before := Prepared.read(told)) != made:
            begun = f"{part} was begun otherwise ({_other(before, made)})"
            raise ConfigError(f"{begun}; delete it, or name another folder than {out}")
        return
    if part.exists() and any(part.iterdir()):
        raise ConfigError(f"{part} exists and was not written by this command; move it away")
    part.mkdir(parents=True, exist_ok=True)
    made.write(told)


def _other(before: Prepared, made: Prepared) -> str:
    """What differs, with its first words."""
    was, now = before.made_of | {"frames": before.frames}, made.made_of | {"frames": made.frames}
    key = next(key for key in {**was, **now} if was.get(key) != now.get(key))
    old, new = (str(each.get(key, "nothing"))[:60] for each in (was, now))
    return f"{key}: {old}, now {new}"


def _describe(source: Source, part: Path) -> None:
    """Write what stands beside the frames; `SHA256SUMS` in the order of names."""
    files: dict[str, str] = {}
    frames, data = source.frames, dict(source.data)
    if any(frame.scene for frame in frames):
        files["scenes.csv"] = _table("scene", ((f.stem, f.scene) for f in frames if f.scene))
    if any(frame.fold for frame in frames):
        files[SPLITS] = _table("fold", ((f.stem, f.fold) for f in frames if f.fold))
        folds = {frame.fold for frame in frames if frame.fold}
        data |= {"splits": SPLITS, "folds": max(2, len(folds))}
    head = "# Written by `prepare`: goes behind the other configs, before --data.root.\n\n"
    if data:
        files[DATASET] = head + tomli_w.dumps({"data": data})
    for name, text in files.items():
        (part / name).write_text(text, encoding="utf-8")
    sums = {**_listed(part / SUMS)}
    sums |= {name: hashlib.sha256((part / name).read_bytes()).hexdigest() for name in files}
    text = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    (part / f".{SUMS}.tmp").write_text(text, encoding="utf-8")
    (part / f".{SUMS}.tmp").replace(part / SUMS)


def _table(column: str, rows: Iterator[tuple[str, str]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["stem", column])
    writer.writerows(rows)
    return stream.getvalue()


def _check_frames(frames: Sequence[Frame]) -> None:
    """Refuse frames that would overwrite each other, or leave nothing to train on."""
    seen = set[tuple[str, str]]()
    for frame in frames:
        if (key := (frame.split, frame.stem)) in seen:
            raise ConfigError(f"two frames of {frame.split} would be named {frame.stem}")
        seen.add(key)
    if not any(frame.split == "train" for frame in frames):
        raise ConfigError("there is no frame to train on")


def _check_sizes(frame: Frame, pixels: Pixels) -> None:
    sizes = {
        kind: found.shape[:2]
        for kind, found in pixels._asdict().items()
        if isinstance(found, np.ndarray)
    }
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{kind} {h} x {w}" for kind, (h, w) in sizes.items())
        raise ConfigError(f"{frame.split} frame {frame.stem}: sizes differ ({told})")
