"""Decoded frames, which runs leave one another in the cache folder.

    CACHE/frames-KEY/ manifest.json image depth label    frames one behind another, by kind; sums
                      dataset                            the folder that they were decoded from

The key is a hash of what the frames' files hold, so a changed dataset is another cache and a moved
one the same.

Processes share it: one at a time makes frames, under `.lock`; who maps them holds a shared lock on
them until the mapping ends, and `engine.frames.prune` deletes nothing that is so held.
"""

import fcntl
import hashlib
import logging
import mmap
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine import sums
from engine.damage import DamageError
from engine.frames.decode import Frame, Sample
from engine.frames.images import DECODERS
from engine.frames.kinds import AS_IT_IS, KINDS
from engine.frames.remembered import note_use
from engine.frames.samples import hw_of
from engine.rundir import Record
from engine.whole import sync_folder

if TYPE_CHECKING:
    # Not to list a dataset: they load PyTorch and Numba.
    from kernels.crop_resize import Frames

_log = logging.getLogger(__name__)
_log_once = cache(_log.info)  # however many folds open the same frames

# It changes whenever the same files make other buffers.
_FORMAT = 1


GIB = 1 << 30
"""Bytes in a GiB, which messages count in."""

MANIFEST, SOURCE = "manifest.json", "dataset"
"""Files beside the buffers; the first one's time is that of the latest use."""


def cache_folder(configured: str = "") -> Path:
    """Where `runtime.cache` says, or where this platform keeps what can be made again."""
    if configured:
        return Path(configured).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "roomsmith"
    # https://specifications.freedesktop.org/basedir-spec/latest/
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "roomsmith"


def open_frames(samples: Sequence[Sample], folder: Path, workers: int, memory: int) -> "Frames":
    """The decoded frames of `samples`, on the CPU; decodes them unless the cache has them.

    Where its `folder` cannot be written they take up to `memory` bytes, for this run only. Raises
    RuntimeError for a file that cannot be read, or frames that fit neither on disk nor in memory.
    """
    layout = Layout(samples)
    if not samples:
        return layout.frames({})
    place = layout.place(folder)
    if layout.fault(place) is None:
        with suppress(FileNotFoundError):  # another process deleted them a moment ago
            frames = layout.map(place)
            _log_once("decoded frames: mapped from %s", place)
            return frames
    from engine.frames.build import build_frames

    return build_frames(layout, place, workers, memory)


class BufferManifest(Record):
    """What a folder holds: hash of what was decoded and by what, count, bytes of each buffer."""

    key: str
    frames: int
    bytes: dict[str, int]


@dataclass(frozen=True, eq=False)
class Layout:
    """What lies where in the buffers of some samples, and what the buffers are made from."""

    samples: Sequence[Sample]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each buffer that there is."""
        pixels = int(hw_of(self.samples).prod(axis=1).sum())
        kinds = self.samples[0].present if self.samples else ()
        return {kind: pixels * KINDS[kind].pixel_bytes for kind in kinds}

    @cached_property
    def manifest(self) -> BufferManifest:
        """What the buffers' folder names, with a hash of the files' content and the decoders."""
        total = hashlib.sha256(f"{_FORMAT} {DECODERS} {tuple(self.sizes)}".encode())
        for sample in self.samples:
            total.update((sample.digest or _read_digest(sample)).encode())
        return BufferManifest(key=total.hexdigest(), frames=len(self.samples), bytes=self.sizes)

    def place(self, folder: Path) -> Path:
        """Where the buffers lie in a cache."""
        return folder / f"frames-{self.manifest.key[:32]}"

    def fault(self, place: Path) -> str | None:
        """What keeps buffers from being used; None if nothing does. Reads them, once a process."""
        if not place.is_dir():
            return "there is none yet"
        try:
            if BufferManifest.read(place / MANIFEST) != self.manifest:
                return "its manifest names other frames"
            for kind, size in self.sizes.items():
                if (found := (place / kind).stat().st_size) != size:
                    return f"it is torn: {kind} has {found} bytes"
                sums.check(place / kind)
        except DamageError as error:
            return error.told
        except (OSError, ValueError) as error:
            return f"it is torn: {error}"
        return None

    def finish(self, part: Path) -> None:
        """Put whole buffers into place beside `part`, which holds them, unless they are there."""
        place = self.place(part.parent)
        if self.fault(place) is None:
            return
        for path in [*part.iterdir()]:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            sums.expect(path, sums.sums_of(path))
        # Contents first, then the manifest, then the name: whatever a power cut leaves behind is
        # either whole or under a name that nobody looks for.
        dataset = self.samples[0].image.absolute().parent.parent.parent
        (part / SOURCE).write_text(f"{dataset}\n", encoding="utf-8")
        self.manifest.write(part / MANIFEST)
        shutil.rmtree(place, ignore_errors=True)
        part.replace(place)
        sync_folder(place.parent)

    def map(self, place: Path) -> "Frames":
        """The frames in buffers without a fault, which stay while they are mapped.

        Raises FileNotFoundError if they were deleted since.
        """
        buffers = {}
        for kind in self.sizes:
            with (place / kind).open("rb") as stream:
                # The mapping has a copy of the descriptor, and with it the lock, until it ends.
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(stream, fcntl.LOCK_SH)
                # Copy on write, though nobody writes: torch warns of memory that is read-only.
                buffers[kind] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            buffers[kind].madvise(mmap.MADV_WILLNEED)
        if not (place / MANIFEST).exists():
            raise FileNotFoundError(f"{place} was deleted")
        note_use(place / MANIFEST)
        return self.frames(buffers)

    def hold(self, decoded: Iterable[Frame]) -> "Frames":
        """The frames in memory, as they are decoded."""
        # Of their size at once: what grows by appending is larger than that, and moves on the way.
        buffers = {kind: bytearray(size) for kind, size in self.sizes.items()}
        left = {kind: memoryview(buffer) for kind, buffer in buffers.items()}
        for frame in decoded:
            for kind, content in frame.contents().items():
                left[kind][: content.size] = content.data
                left[kind] = left[kind][content.size :]
        return self.frames(buffers)

    def frames(self, buffers: Mapping[str, mmap.mmap | bytearray]) -> "Frames":
        """The frames in buffers of these sizes."""
        import torch

        from kernels.crop_resize import Frames

        parts = {kind: torch.frombuffer(b, dtype=torch.uint8) for kind, b in buffers.items()}
        image_P3 = parts.get("image", torch.empty(0, dtype=torch.uint8)).view(-1, 3)
        depth_P = parts["depth"].view(torch.uint16) if "depth" in parts else None
        hw_N2 = torch.from_numpy(hw_of(self.samples))
        pixels_N = hw_N2.prod(dim=1)
        offset_N = pixels_N.cumsum(0) - pixels_N
        return Frames(image_P3, depth_P, parts.get("label"), offset_N, hw_N2)


@dataclass(eq=False)
class FrameKeeper:
    """Takes what a check decodes for `open_frames`; gives up if memory or disk cannot hold it."""

    frames: int = 0
    """So many it wants, in order; 0: none, or no longer."""
    _part: Path = Path()
    _limit: int = 0  # bytes that those to come may have
    _put: int = 0

    def put(self, frame: Frame | None) -> None:
        """Take the next frame, if it is wanted; None: it has faults."""
        if not self.frames or frame is None:
            return
        size = sum(part.nbytes for part in frame if part is not None)
        with self._giving_up():
            # If the others are as large as this one.
            if size * (self.frames - self._put) > self._limit:
                raise OSError("they are too many for memory or disk")
            append_frame(self._part, frame)
            self._limit, self._put = self._limit - size, self._put + 1

    def keep(self, samples: Sequence[Sample]) -> None:
        """Put what was taken where `open_frames` looks for these samples, made of the frames."""
        if self.frames:
            with self._giving_up():
                Layout(samples).finish(self._part)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _log.debug("decoded frames are not kept while files are checked: %s", error)
            self.frames = 0


@contextmanager
def keeping(folder: Path | None, frames: int, limit: int) -> Iterator[FrameKeeper]:
    """Take so many decoded frames, of at most `limit` bytes, `put` in order as they are checked.

    None is wanted where the cache `folder` cannot be written, or another process works in it.
    """
    with ExitStack() as stack:
        keeper = FrameKeeper()
        if folder is not None and limit:
            with suppress(OSError):  # `open_frames` says what is wrong with the folder
                part = stack.enter_context(part_folder(folder, wait=False))
                limit = min(limit, shutil.disk_usage(part).free - GIB)
                keeper = FrameKeeper(frames, part, limit)
        yield keeper


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Keep other processes from making or deleting frames in a cache; raises as `part_folder`.

    What a killed process left half-made is deleted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:  # unlocked by the system if the process dies
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # Of processes that were killed; older releases wrote .frames-KEY.part under this lock.
        for left in folder.glob(".frames*.part"):
            shutil.rmtree(left, ignore_errors=True)
        yield


@contextmanager
def part_folder(folder: Path, *, wait: bool) -> Iterator[Path]:
    """An empty folder for buffers, gone or in place at the end; the cache is locked meanwhile.

    An OSError: it cannot be written; a BlockingIOError unless `wait`: a process works in it.
    """
    with locked(folder, wait=wait):
        part = folder / ".frames.part"
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def append_frame(part: Path, frame: Frame) -> None:
    """Add a frame to the buffers in a folder; an OSError is the disk's."""
    for kind, content in frame.contents().items():
        with (part / kind).open("ab", buffering=0) as stream:
            descriptor, left = stream.fileno(), content.data
            # Not through a mapping: a full disk is an error here, and a dead process there.
            while left:
                left = left[os.write(descriptor, left) :]
            if hasattr(os, "posix_fadvise"):
                # The system begins to write these pages while the next frame is decoded, so that
                # `fsync` finds little to wait for: 17 % of the whole on NYUv2.
                start = stream.tell() - content.nbytes
                os.posix_fadvise(descriptor, start, content.nbytes, os.POSIX_FADV_DONTNEED)


def _read_digest(sample: Sample) -> str:
    """As the check makes it, where nobody did."""
    content = b""
    for kind, path in sample.present.items():
        origin = sample.origin if kind == "image" else AS_IT_IS
        content += bytes.fromhex(origin.digest(path.read_bytes()))
    return hashlib.sha256(content + sample.reading.stores).hexdigest()
