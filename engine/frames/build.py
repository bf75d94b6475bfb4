"""Decoded frames where no check left them in the cache: made there, or for this run in memory."""

import logging
import shutil
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from engine.frames.cache import GIB, Layout, append_frame, part_folder
from engine.frames.decode import Frame, Sample, in_order, read_frame
from engine.runtime.progress import track
from kernels.crop_resize import Frames

_log = logging.getLogger(__name__)


def build_frames(layout: Layout, place: Path, workers: int, memory: int) -> Frames:
    """Decode the frames into the cache folder `place`; see `engine.frames.cache.open_frames`."""
    folder, size = place.parent, sum(layout.sizes.values())
    size_gib = size / GIB
    try:
        # One process builds at a time; another that wants the same frames waits and finds them.
        with _waited_for(folder) as part:
            # Asked again under the lock: the other process may have made them meanwhile.
            if fault := layout.fault(place):
                free_gib = shutil.disk_usage(folder).free / GIB
                if size_gib + 1 > free_gib:
                    needed = f"{size_gib:.1f} GiB and 1 GiB to spare are needed"
                    raise OSError(f"{folder} has {free_gib:.1f} GiB free, {needed}")
                _log.info("decoded frames: making %s (%.1f GiB): %s", place, size_gib, fault)
                with closing(_decoded(layout, workers)) as decoded:
                    for frame in decoded:
                        append_frame(part, frame)
                layout.finish(part)
            return layout.map(place)
    except OSError as error:
        _log.warning("decoded frames cannot be kept on disk, in %s: %s", folder, error)
        if size > memory:
            raise RuntimeError(
                f"{size_gib:.1f} GiB of decoded frames fit neither into {folder} ({error}) nor "
                "into memory; set runtime.cache to a folder with room, or runtime.source to 'dali' "
                "or 'torch'"
            ) from error
        _log.info("decoded frames: held in memory (%.1f GiB) for this run only", size_gib)
        return layout.hold(_decoded(layout, workers))


def read_whole(sample: Sample) -> Frame:
    """Decode a sample; any fault is a RuntimeError that names its stem."""
    try:
        return read_frame(sample)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(f"sample {sample.stem} cannot be read: {error}") from error


@contextmanager
def _waited_for(folder: Path) -> Iterator[Path]:
    """`part_folder`, once no other process works in the cache."""
    with ExitStack() as stack:
        try:
            part = stack.enter_context(part_folder(folder, wait=False))
        except BlockingIOError:
            _log.info("decoded frames: waiting for another process that works in %s", folder)
            part = stack.enter_context(part_folder(folder, wait=True))
        yield part


def _decoded(layout: Layout, workers: int) -> Generator[Frame]:
    work = in_order(read_whole, layout.samples, workers)
    with closing(work) as frames, track("decoding frames", len(layout.samples)) as advance:
        for frame in frames:
            yield frame
            advance(1)
