"""Decoding alone, and an epoch of augmented batches from files or what is kept of them."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows.job import Job
from benchmarks.sides import Prepared
from benchmarks.timing import Work

if TYPE_CHECKING:
    from benchmarks.plain.recipe import Recipe
    from engine.data.augment import Draws
    from engine.data.sources import Source
    from engine.frames.index import Sample


def ours_cached(job: Job) -> Prepared:
    """The engine's source, its frames decoded by an earlier run."""
    source = _source(job)
    epochs = iter(range(1 << 30))
    return Prepared(lambda: _consume(job, source, next(epochs)))


def ours_cold(job: Job) -> Prepared:
    """The engine's source on its first epoch: frames are decoded, kept and cropped."""
    living: list[Source] = []

    def reset() -> None:
        # The mapping of the last call ends here, outside of the timing.
        living.clear()
        shutil.rmtree(job.folder, ignore_errors=True)
        _forget_pages(job)

    def run() -> dict[str, Any]:
        living.append(_source(job))
        return _consume(job, living[0], 0)

    return Prepared(run, reset)


def plain_cached(job: Job, recipe: "Recipe") -> Prepared:
    """A DataLoader whose workers run already; the system keeps the files' pages."""
    from benchmarks.plain.data import CropDataset, training_loader

    dataset = CropDataset(job.dataset.train.samples, job.config, job.config.training.seed)
    loader = training_loader(
        dataset,
        job.config.training.batch_size,
        workers=recipe.workers,
        seed=job.config.training.seed,
        pin=recipe.device != "cpu",
    )
    return Prepared(lambda: _facts(len(batch[0]) for batch in loader))


def plain_cold(job: Job, recipe: "Recipe") -> Prepared:
    """A new DataLoader, on files that the system has to read again."""
    # Imported now: Python's start is no part of an epoch.
    import benchmarks.plain.data  # noqa: F401

    living: list[Prepared] = []

    def reset() -> None:
        # The workers of the last call end here, outside of the timing.
        living.clear()
        _forget_pages(job)

    def run() -> dict[str, Any]:
        living.append(plain_cached(job, recipe))
        return living[0].run()

    return Prepared(run, reset)


def ours_decode(job: Job) -> Prepared:
    """Image, depth map and label of every frame, by the engine's decoders."""
    from engine.frames.decode import read_depth, read_image, read_label

    return _decoding(job, read_image, read_depth, read_label)


def plain_decode(job: Job, recipe: "Recipe") -> Prepared:  # noqa: ARG001
    """The same by OpenCV."""
    import cv2

    from benchmarks.plain.data import read_depth, read_image, read_label

    cv2.setNumThreads(0)
    return _decoding(job, read_image, read_depth, read_label)


def pillow_decode(job: Job, recipe: "Recipe") -> Prepared:  # noqa: ARG001
    """The same by Pillow."""
    import numpy as np
    from PIL import Image

    def decode(path: Path | None) -> Any:
        assert path is not None
        with Image.open(path) as image:
            return np.array(image)

    return _decoding(
        job,
        lambda sample: decode(sample.image),
        lambda sample: decode(sample.depth),
        lambda sample: decode(sample.label),
    )


def decode_work(job: Job) -> Work:
    """The files are read, the pixels written; decoding itself is not counted."""
    samples = job.dataset.train.samples
    files = sum(file.stat().st_size for sample in samples for file in _files(sample))
    decoded = sum(sample.hw[0] * sample.hw[1] * (3 + 2 + 1) for sample in samples)
    return Work(files + decoded, 0, job.threads)


def check_decode(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Both decoded the same frames to the same colours, depths and classes."""
    for number, pair in enumerate(zip(ours["middles"], theirs["middles"], strict=True)):
        assert pair[0] == pair[1], f"frame {number}, middle pixel: {pair[0]} and {pair[1]}"


def cached_work(job: Job) -> Work:
    """Per image: the frame's part under the crop is read, the crop written.

    A colour of an output pixel: 3 operations to interpolate along the column, 2 to clip; of a
    pixel of a resized line: 3 along the row, 2 for light and normalisation.
    """
    config = job.config
    crop_px = config.data.crop_hw[0] * config.data.crop_hw[1]
    input_px = config.data.input_hw[0] * config.data.input_hw[1]
    frame_px = sum(sample.hw[0] * sample.hw[1] for sample in job.dataset.train.samples)
    read = round(frame_px * crop_px / input_px) * (3 + 2 + 1)
    images = len(job.dataset.train.samples)
    written = images * crop_px * (4 * config.model.in_channels + 4 + 1)
    flops = images * crop_px * 2 * 3 * 5
    return Work(read + written, flops, job.threads)


def cold_work(job: Job) -> Work:
    """The files are read and the decoded frames kept once; decoding itself is not counted."""
    work = cached_work(job)
    return Work(work.bytes + decode_work(job).bytes, work.flops, work.threads)


def check(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Both made the same number of images."""
    assert ours["frames"] == theirs["frames"], f"images: {ours['frames']} and {theirs['frames']}"


def _decoding(job: Job, *readers: Callable[["Sample"], Any]) -> Prepared:
    """Frames one by one, as many threads as decoding has in the engine."""
    samples = job.dataset.train.samples

    def middle(sample: "Sample") -> list[Any]:
        """One pixel, to compare by: comparing all would take as long as decoding."""
        place = sample.hw[0] // 2, sample.hw[1] // 2
        return [read(sample)[place].tolist() for read in readers]

    def run() -> dict[str, Any]:
        with ThreadPoolExecutor(job.config.runtime.workers) as pool:
            return {"frames": len(samples), "middles": list(pool.map(middle, samples))}

    return Prepared(run)


def _source(job: Job) -> "Source":
    from engine.data.sources import make_source
    from engine.model.network import input_normalisation
    from engine.runtime.device import choose_device

    config = job.config
    policy = choose_device(config.runtime)
    return make_source(
        config.runtime.source,
        job.dataset.train.samples,
        config.data.crop_hw,
        input_normalisation(config.model),
        config.model.in_channels,
        policy.device,
        config.runtime.workers,
        cache=str(job.folder),
        crop=policy.operations.crop_resize,
    )


def _consume(job: Job, source: "Source", epoch: int) -> dict[str, Any]:
    return _facts(len(batch.index) for batch in source.batches(_draws(job, epoch)))


def _draws(job: Job, epoch: int) -> Iterator["Draws"]:
    import numpy as np

    from engine.data.augment import draw, epoch_order

    split, seed = job.dataset.train, job.config.training.seed
    hw = np.array([sample.hw for sample in split.samples])
    size = min(job.config.training.batch_size, len(split.samples))
    order = epoch_order(seed, epoch, np.arange(len(split.samples)))
    for first in range(0, len(order) - size + 1, size):
        yield draw(
            job.config.data,
            seed=seed,
            epoch=epoch,
            index=order[first : first + size],
            hw=hw,
            small_pixels=split.small_pixels,
        )


def _facts(sizes: Iterator[int]) -> dict[str, Any]:
    return {"frames": sum(sizes)}


def _files(sample: "Sample") -> list[Path]:
    return [file for file in (sample.image, sample.depth, sample.label) if file is not None]


def _forget_pages(job: Job) -> None:
    """Ask the system to drop the files' pages from its cache (man 2 posix_fadvise).

    It drops none that are still to be written, and has work left with what was just deleted: both
    are over before the clock starts.
    """
    os.sync()
    for sample in job.dataset.train.samples:
        for file in _files(sample):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
