"""Decoding alone, by each side, and how the system is made to forget files.

Every side imports what it needs inside its function: all else here is light, so that the memory of
the libraries is theirs.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.figures import Facts
from benchmarks.rows.job import Job, pixels
from benchmarks.sides import Prepared
from engine.frames.decode import Sample


def ours(job: Job) -> Prepared:
    """Image, depth map and label of every frame, by the engine's decoders."""
    from engine.frames.decode import read_depth, read_image, read_label

    return _decoding(job, read_image, read_depth, read_label)


def opencv(job: Job) -> Prepared:
    """The same by OpenCV."""
    import cv2

    from benchmarks.plain.data import read_depth, read_image, read_label

    cv2.setNumThreads(0)
    return _decoding(job, read_image, read_depth, read_label)


def pillow(job: Job) -> Prepared:
    """The same by Pillow."""
    return _decoding(
        job,
        lambda sample: pixels(sample.image),
        lambda sample: pixels(sample.depth),
        lambda sample: pixels(sample.label),
    )


def files(sample: Sample) -> list[Path]:
    """Of a frame, those that there are."""
    return [file for file in (sample.image, sample.depth, sample.label) if file is not None]


def forget_pages(job: Job) -> None:
    """Ask the system to drop the files' pages from its cache (man 2 posix_fadvise).

    It drops none that are still to be written, and has work left with what was just deleted: both
    are over before the clock starts.
    """
    os.sync()
    for sample in job.dataset.train.samples:
        for file in files(sample):
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _decoding(job: Job, *readers: Callable[[Sample], Any]) -> Prepared:
    """Frames one by one, as many threads as decoding has in the engine."""
    samples = job.dataset.train.samples

    def middle(sample: Sample) -> list[int | list[int]]:
        """One pixel, to compare by: comparing all would take as long as decoding."""
        place = sample.hw[0] // 2, sample.hw[1] // 2
        return [read(sample)[place].tolist() for read in readers]

    def run() -> Facts:
        with ThreadPoolExecutor(job.config.runtime.workers) as pool:
            return Facts(len(samples), middles=tuple(pool.map(middle, samples)))

    return Prepared(run)
