"""Frames decoded once: flat buffers in a cache folder, memory-mapped by every run that follows.

    CACHE/frames-KEY/ manifest.json image depth label

The key is a hash of what the frames' files hold, so a changed dataset is another cache and a moved
one the same. The folder appears whole or not at all: written beside its place, synced, renamed.

N: frames. P: pixels of all frames.
"""

import fcntl
import hashlib
import logging
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.frames.decode import DECODERS, READERS, read_ahead
from engine.frames.index import Sample
from engine.rundir import read_json, sync_folder, write_json
from engine.runtime.progress import track
from kernels.crop_resize import Frames

_log = logging.getLogger(__name__)

FORMAT = 1
"""Changes whenever the buffers hold something else for the same files."""

_MANIFEST = "manifest.json"
_DTYPES: dict[str, type[np.generic]] = {"image": np.uint8, "depth": np.uint16, "label": np.uint8}
_GIB = 1 << 30
_AHEAD = 16  # frames whose files are asked for before they are needed

_Put = Callable[[str, int, NDArray[Any]], None]
"""Keeps the pixels of one kind of one frame from a pixel of the buffer on."""


def open_frames(samples: Sequence[Sample], folder: Path, workers: int, memory: int) -> Frames:
    """The decoded frames of `samples`, on the CPU; decodes them unless the cache has them.

    Where the cache cannot be written (no room, no permission) the frames are held in memory for
    this run only, and the log says why.

    Args:
        samples: all with depth or none, all with labels or none.
        folder: of the cache; created. `cache_folder` names the usual one.
        workers: decoding threads.
        memory: bytes that frames may take outside the cache.

    Returns:
        Buffers in the samples' order, mapped from the cache: pages are read when first touched and
        given back when memory is short.

    Raises:
        RuntimeError: a file cannot be read (the message names the sample's stem), or the frames
            fit neither on the disk nor in memory.
    """
    layout = _Layout.of(samples)
    if not layout.pixels:
        return layout.frames({kind: layout.empty(kind) for kind in layout.kinds})
    place = folder / f"frames-{layout.key[:32]}"
    if layout.fault(place) is None:
        _say_found(place)
        return layout.map(place)
    try:
        _build(layout, place, workers)
    except OSError as error:
        _log.warning("decoded frames cannot be kept on disk: %s", error)
        if layout.bytes > memory:
            raise RuntimeError(
                f"{layout.bytes / _GIB:.1f} GiB of decoded frames fit neither into {folder} "
                f"({error}) nor into memory; set runtime.cache to a folder with room, or "
                "runtime.source to 'dali' or 'torch'"
            ) from error
        return _decode_to_memory(layout, workers)
    return layout.map(place)


def frame_bytes(samples: Sequence[Sample]) -> int:
    """Bytes of the decoded frames."""
    return _Layout.of(samples).bytes


def cache_folder() -> Path:
    """Where this platform keeps what can be made again, for this user and engine."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "roomsmith"
    # https://specifications.freedesktop.org/basedir-spec/latest/
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return base / "roomsmith"


@dataclass(frozen=True, eq=False)
class _Layout:
    """What lies where in the buffers of some samples, and what the buffers are made from."""

    samples: Sequence[Sample]
    kinds: tuple[str, ...]
    offset_N: NDArray[np.int64]
    hw_N2: NDArray[np.int64]
    pixels: int

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "_Layout":
        kinds = tuple(kind for kind in _DTYPES if samples and getattr(samples[0], kind) is not None)
        hw_N2 = np.array([sample.hw for sample in samples], np.int64).reshape(-1, 2)
        pixels_N = hw_N2.prod(axis=1)
        return cls(samples, kinds, np.cumsum(pixels_N) - pixels_N, hw_N2, int(pixels_N.sum()))

    @cached_property
    def key(self) -> str:
        total = hashlib.sha256(f"{FORMAT} {DECODERS} {self.kinds}".encode())
        for sample in self.samples:
            total.update(_content(sample).encode())
        return total.hexdigest()

    @property
    def bytes(self) -> int:
        return sum(self.size(kind) for kind in self.kinds)

    @property
    def manifest(self) -> dict[str, Any]:
        sizes = {kind: self.size(kind) for kind in self.kinds}
        return {"key": self.key, "frames": len(self.hw_N2), "bytes": sizes}

    def shape(self, kind: str) -> tuple[int, ...]:
        return (self.pixels, 3) if kind == "image" else (self.pixels,)

    def size(self, kind: str) -> int:
        return int(np.prod(self.shape(kind))) * np.dtype(_DTYPES[kind]).itemsize

    def empty(self, kind: str) -> NDArray[Any]:
        return np.empty(self.shape(kind), _DTYPES[kind])

    def fault(self, place: Path) -> str | None:
        """What keeps the folder from being used; None if nothing does."""
        if not place.is_dir():
            return "there is none yet"
        try:
            if read_json(place / _MANIFEST) != self.manifest:
                return "its manifest names other frames"
            sizes = {kind: (place / kind).stat().st_size for kind in self.kinds}
        except (OSError, ValueError) as error:
            return f"it is torn: {error}"
        torn = [kind for kind in self.kinds if sizes[kind] != self.size(kind)]
        return f"it is torn: {torn[0]} has {sizes[torn[0]]} bytes" if torn else None

    def map(self, place: Path) -> Frames:
        buffers = {}
        for kind in self.kinds:
            with (place / kind).open("rb") as stream:
                # Copy on write, though nobody writes: torch warns of memory that is read-only.
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            mapped.madvise(mmap.MADV_WILLNEED)
            buffers[kind] = np.frombuffer(mapped, _DTYPES[kind]).reshape(self.shape(kind))
        return self.frames(buffers)

    def frames(self, buffers: dict[str, NDArray[Any]]) -> Frames:
        tensors = {kind: torch.from_numpy(buffer) for kind, buffer in buffers.items()}
        return Frames(
            tensors.get("image", torch.empty((0, 3), dtype=torch.uint8)),
            tensors.get("depth"),
            tensors.get("label"),
            torch.from_numpy(self.offset_N),
            torch.from_numpy(self.hw_N2),
        )


@cache
def _say_found(place: Path) -> None:
    """Once, however many folds open the same frames."""
    _log.info("decoded frames: mapped from %s", place)


def _content(sample: Sample) -> str:
    """The sample's digest, read from its files where the index did not."""
    if sample.digest:
        return sample.digest
    files = (sample.image, sample.depth, sample.label)
    total = hashlib.sha256()
    for path in files:
        if path is not None:
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _build(layout: _Layout, place: Path, workers: int) -> None:
    """Decode into `place`; an OSError is the disk's.

    One process builds at a time; another that wants the same frames waits and finds them.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place.parent):
        fault = layout.fault(place)
        if fault is None:
            return
        free = shutil.disk_usage(place.parent).free
        if layout.bytes + _GIB > free:
            raise OSError(
                f"{place.parent} has {free / _GIB:.1f} GiB free, "
                f"{layout.bytes / _GIB:.1f} GiB and 1 GiB to spare are needed"
            )
        _log.info("decoded frames: making %s (%.1f GiB): %s", place, layout.bytes / _GIB, fault)
        part = place.with_name(f".{place.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir()
        try:
            _write(layout, part, workers)
            shutil.rmtree(place, ignore_errors=True)
            part.replace(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        sync_folder(place.parent)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases if the process dies."""
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("decoded frames: waiting for another process that works in %s", folder)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _write(layout: _Layout, part: Path, workers: int) -> None:
    with ExitStack() as stack:
        files = {kind: stack.enter_context((part / kind).open("wb")) for kind in layout.kinds}

        def put(kind: str, first: int, pixels: NDArray[Any]) -> None:
            # Not through a mapping: a full disk is an error here, and a dead process there.
            start = first * layout.size(kind) // layout.pixels
            descriptor, content = files[kind].fileno(), pixels.data.cast("B")
            place = start, len(content)
            while content:
                written = os.pwrite(descriptor, content, start)
                start, content = start + written, content[written:]
            if hasattr(os, "posix_fadvise"):
                # The system begins to write these pages while the next frame is decoded, so that
                # `fsync` finds little to wait for: 17 % of the whole on NYUv2.
                os.posix_fadvise(descriptor, *place, os.POSIX_FADV_DONTNEED)

        _decode_all(layout, workers, put)
        for file in files.values():
            os.fsync(file.fileno())
    write_json(part / _MANIFEST, layout.manifest)


def _decode_to_memory(layout: _Layout, workers: int) -> Frames:
    buffers = {kind: layout.empty(kind) for kind in layout.kinds}

    def put(kind: str, first: int, pixels: NDArray[Any]) -> None:
        flat = pixels.reshape(-1, *buffers[kind].shape[1:])
        buffers[kind][first : first + len(flat)] = flat

    _decode_all(layout, workers, put)
    _log.info("decoded frames: held in memory (%.1f GiB) for this run only", layout.bytes / _GIB)
    return layout.frames(buffers)


def _decode_all(layout: _Layout, workers: int, put: _Put) -> None:
    def decode(number: int) -> None:
        sample = layout.samples[number]
        for later in layout.samples[number + _AHEAD : number + _AHEAD + 1]:
            read_ahead(later)
        for kind in layout.kinds:
            try:
                pixels = READERS[kind](sample)
            except (OSError, RuntimeError) as error:
                raise RuntimeError(f"sample {sample.stem} cannot be read: {error}") from error
            assert pixels is not None, "the source checked that all have it or none"
            put(kind, int(layout.offset_N[number]), pixels)

    for first in layout.samples[:_AHEAD]:
        read_ahead(first)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        with track("decoding frames", len(layout.samples)) as advance:
            for done in [pool.submit(decode, number) for number in range(len(layout.samples))]:
                done.result()
                advance(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
