"""Frames decoded once: buffers in a cache folder, memory-mapped by every run that follows.

    CACHE/frames-KEY/ manifest.json image depth label    frames one behind another, by kind

The key is a hash of what the frames' files hold, so a changed dataset is another cache and a moved
one the same. The folder appears whole or not at all: written beside its place, synced, renamed.
N: frames.
"""

import fcntl
import hashlib
import logging
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import torch

from engine.frames.decode import DECODERS, Frame, in_order, read_whole
from engine.frames.listing import FrameFiles, Sample
from engine.rundir import Record, sync_folder
from engine.runtime.progress import track
from kernels.crop_resize import Frames

_log = logging.getLogger(__name__)
_log_once = cache(_log.info)  # however many folds open the same frames

FORMAT = 1
"""Changes whenever the buffers hold something else for the same files."""

PIXEL_BYTES = {"image": 3, "depth": 2, "label": 1}
"""By kind, as a `Frame` holds it."""

_GIB = 1 << 30
_MANIFEST = "manifest.json"


def open_frames(samples: Sequence[Sample], folder: Path, workers: int, memory: int) -> Frames:
    """The decoded frames of `samples`, on the CPU; decodes them unless the cache has them.

    Args:
        samples: all with depth or none, all with labels or none.
        folder: of the cache; created; see `engine.frames.check.cache_folder`.
        workers: decoding threads.
        memory: bytes that frames may take, for this run only, where the cache cannot be written (no
            room, no permission); the log says why.

    Returns:
        Buffers in the samples' order; pages of the cache are read when first touched and given back
        when memory is short.

    Raises:
        RuntimeError: a file cannot be read, or the frames fit neither on the disk nor in memory.
    """
    layout, size_gib = Layout(samples), frame_bytes(samples) / _GIB
    if not size_gib:
        return layout.frames({})
    place = layout.place(folder)
    if layout.fault(place) is None:
        _log_once("decoded frames: mapped from %s", place)
        return layout.map(place)
    try:
        # One process builds at a time; another that wants the same frames waits and finds them.
        with _part_folder(folder) as part:
            # Asked again under the lock: the other process may have made them meanwhile.
            if fault := layout.fault(place):
                _check_room(folder, size_gib)
                _log.info("decoded frames: making %s (%.1f GiB): %s", place, size_gib, fault)
                _decode_all(samples, workers, partial(_append, part))
                _finish(part, layout)
    except OSError as error:
        _log.warning("decoded frames cannot be kept on disk: %s", error)
        if size_gib * _GIB > memory:
            raise RuntimeError(
                f"{size_gib:.1f} GiB of decoded frames fit neither into {folder} ({error}) nor "
                "into memory; set runtime.cache to a folder with room, or runtime.source to 'dali' "
                "or 'torch'"
            ) from error
        _log.info("decoded frames: held in memory (%.1f GiB) for this run only", size_gib)
        return _decode_to_memory(layout, workers)
    return layout.map(place)


def frame_bytes(samples: Sequence[Sample]) -> int:
    """Bytes of the decoded frames."""
    return sum(Layout(samples).sizes.values())


class BufferManifest(Record):
    """What a folder holds: hash of what was decoded and by what, count, bytes of each buffer."""

    key: str
    frames: int
    bytes: dict[str, int]


@dataclass(frozen=True, eq=False)
class Layout:
    """What lies where in the buffers of some samples, and what the buffers are made from."""

    samples: Sequence[Sample]
    """All with depth or none, all with labels or none."""

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each buffer that there is."""
        pixels = sum(height * width for height, width in (sample.hw for sample in self.samples))
        kinds = self.samples[0].present if self.samples else ()
        return {kind: pixels * PIXEL_BYTES[kind] for kind in kinds}

    @cached_property
    def manifest(self) -> BufferManifest:
        """What the buffers' folder names, with a hash of the files' content and the decoders."""
        total = hashlib.sha256(f"{FORMAT} {DECODERS} {tuple(self.sizes)}".encode())
        for sample in self.samples:
            total.update(_digest(sample).encode())
        return BufferManifest(key=total.hexdigest(), frames=len(self.samples), bytes=self.sizes)

    def place(self, folder: Path) -> Path:
        """Where the buffers lie in a cache."""
        return folder / f"frames-{self.manifest.key[:32]}"

    def fault(self, place: Path) -> str | None:
        """What keeps buffers from being used; None if nothing does."""
        if not place.is_dir():
            return "there is none yet"
        try:
            if BufferManifest.read(place / _MANIFEST) != self.manifest:
                return "its manifest names other frames"
            found = {kind: (place / kind).stat().st_size for kind in self.sizes}
        except (OSError, ValueError) as error:
            return f"it is torn: {error}"
        torn = [kind for kind, size in self.sizes.items() if found[kind] != size]
        return f"it is torn: {torn[0]} has {found[torn[0]]} bytes" if torn else None

    def map(self, place: Path) -> Frames:
        """The frames in buffers without a fault."""
        buffers = {}
        for kind in self.sizes:
            with (place / kind).open("rb") as stream:
                # Copy on write, though nobody writes: torch warns of memory that is read-only.
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            mapped.madvise(mmap.MADV_WILLNEED)
            buffers[kind] = mapped
        return self.frames(buffers)

    def frames(self, buffers: Mapping[str, mmap.mmap | bytearray]) -> Frames:
        """The frames in buffers of these sizes."""
        parts = {kind: torch.frombuffer(b, dtype=torch.uint8) for kind, b in buffers.items()}
        image_P3 = parts.get("image", torch.empty(0, dtype=torch.uint8)).view(-1, 3)
        depth_P = parts["depth"].view(torch.uint16) if "depth" in parts else None
        hw_N2 = torch.tensor([sample.hw for sample in self.samples], dtype=torch.int64).view(-1, 2)
        pixels_N = hw_N2.prod(dim=1)
        offset_N = pixels_N.cumsum(0) - pixels_N
        return Frames(image_P3, depth_P, parts.get("label"), offset_N, hw_N2)


@dataclass(eq=False)
class FrameKeeper:
    """Takes what a check decodes for `open_frames`; gives up if memory or disk cannot hold it."""

    frames: frozenset[FrameFiles] = frozenset()
    """Those that it wants."""
    _part: Path = Path()
    _limit: int = 0  # bytes that those to come may have
    _put: int = 0

    def put(self, files: FrameFiles, frame: Frame | None) -> None:
        """Take the next frame, if it is wanted; None: it has faults."""
        if files not in self.frames or frame is None:
            return
        with self._giving_up():
            size = sum(part.nbytes for part in frame if part is not None)
            need = size * (len(self.frames) - self._put)  # if the others are as large as this one
            _check_room(self._part, need / _GIB)
            if need > self._limit:
                raise OSError("they are too many to stay in memory")
            _append(self._part, frame)
            self._limit, self._put = self._limit - size, self._put + 1

    def keep(self, samples: Sequence[Sample]) -> None:
        """Put what was taken where `open_frames` looks for these samples, made of the frames."""
        if self.frames:
            with self._giving_up():
                _finish(self._part, Layout(samples))

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _log.debug("decoded frames are not kept while files are checked: %s", error)
            self.frames = frozenset()


@contextmanager
def keeping(folder: Path | None, frames: Sequence[FrameFiles], limit: int) -> Iterator[FrameKeeper]:
    """Take decoded frames of at most `limit` bytes in all, `put` in order while they are checked.

    None is wanted where the cache `folder` cannot be written, or another process works in it.
    """
    with ExitStack() as stack:
        keeper = FrameKeeper()
        if folder is not None and limit:
            with suppress(OSError):  # `open_frames` says what is wrong with the folder
                part = stack.enter_context(_part_folder(folder, wait=False))
                keeper = FrameKeeper(frozenset(frames), part, limit)
        yield keeper


@contextmanager
def _part_folder(folder: Path, wait: bool = True) -> Iterator[Path]:
    """An empty folder for buffers, gone or in place at the end; the cache is locked meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:  # unlocked by the system if the process dies
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            _log.info("decoded frames: waiting for another process that works in %s", folder)
            fcntl.flock(stream, fcntl.LOCK_EX)
        part = folder / ".frames.part"
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _append(part: Path, frame: Frame) -> None:
    """Add a frame to the buffers; an OSError is the disk's."""
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


def _finish(part: Path, layout: Layout) -> None:
    """Put whole buffers into place in their cache, unless it has them."""
    place = layout.place(part.parent)
    if layout.fault(place) is None:
        return
    for path in part.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    # Contents first, then the manifest, then the name: whatever a power cut leaves behind is either
    # whole or under a name that nobody looks for.
    layout.manifest.write(part / _MANIFEST)
    shutil.rmtree(place, ignore_errors=True)
    part.replace(place)
    sync_folder(place.parent)


def _check_room(folder: Path, need_gib: float) -> None:
    free_gib = shutil.disk_usage(folder).free / _GIB
    if need_gib + 1 > free_gib:
        needed = f"{need_gib:.1f} GiB and 1 GiB to spare are needed"
        raise OSError(f"{folder} has {free_gib:.1f} GiB free, {needed}")


def _decode_to_memory(layout: Layout, workers: int) -> Frames:
    buffers = {kind: bytearray() for kind in layout.sizes}

    def put(frame: Frame) -> None:
        for kind, content in frame.contents().items():
            buffers[kind] += content.data

    _decode_all(layout.samples, workers, put)
    return layout.frames(buffers)


def _decode_all(samples: Sequence[Sample], workers: int, put: Callable[[Frame], None]) -> None:
    work = in_order(read_whole, samples, workers)
    with closing(work) as frames, track("decoding frames", len(samples)) as advance:
        for frame in frames:
            put(frame)
            advance(1)


def _digest(sample: Sample) -> str:
    """The sample's digest, read from its files where the check did not."""
    if sample.digest:
        return sample.digest
    digests = (hashlib.sha256(path.read_bytes()).digest() for path in sample.present.values())
    return hashlib.sha256(b"".join(digests)).hexdigest()
