"""Decoding alone, the weights of a blend of stored probabilities, and a first epoch, by each side.

Every side imports what it needs inside its function: all else here is light, so that the memory of
the libraries is theirs.

Axes: M runs, C classes, N frames, h w stored pixels; 2 the ends of a line.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Facts
from benchmarks.sides import Prepared
from benchmarks.subset import Job, pixels
from engine.frames.decode import Sample
from engine.frames.kinds import KINDS


def decoding(job: Job) -> Prepared:
    """Image, depth map and label of every frame, by the engine's decoders."""
    from engine.frames.decode import read_depth, read_image, read_label

    return _decoding(job, read_image, read_depth, read_label)


def decoding_by_opencv(job: Job) -> Prepared:
    """The same by OpenCV."""
    import cv2

    from benchmarks.plain.data import read_depth, read_image, read_label

    cv2.setNumThreads(0)
    return _decoding(job, read_image, read_depth, read_label)


def decoding_by_pillow(job: Job) -> Prepared:
    """The same by Pillow."""
    return decoding_by(job, pixels)


def decoding_by(job: Job, read: Callable[[Path], Any]) -> Prepared:
    """The same by a library that reads files of every kind."""
    readers = [lambda sample, kind=kind: read(getattr(sample, kind)) for kind in KINDS]
    return _decoding(job, *readers)


def first_epoch(
    job: Job, begin: Callable[[], Prepared], forget: Callable[[], object] = bool
) -> Prepared:
    """An epoch of crops on files that the system has to read again.

    Args:
        job: whose frames.
        begin: makes what gives an epoch, within the timing.
        forget: removes what earlier calls left.
    """
    living: list[Prepared] = []

    def reset() -> None:
        # Workers and mappings of the last call end here, outside of the timing.
        living.clear()
        forget()
        _forget_pages(job)

    def run() -> Facts:
        living.append(begin())
        return living[0].run()

    return Prepared(run, reset)


def validating(job: Job, count: Callable[..., Any], score: Callable[..., float]) -> Prepared:
    """Validation of a trained network by one view.

    Args:
        job: whose frames.
        count: makes (C, C) int64 counts of samples.
        score: makes mIoU of counts.
    """

    def validate() -> Facts:
        count_CC = count(job.validation)
        mious = (score(count_CC),)
        pixels, rounded = int(count_CC.sum()), job.config.int8
        return Facts(len(job.validation), mious=mious, pixels=pixels, rounded=rounded)

    return Prepared(validate)


def blending(job: Job) -> Prepared:
    """The exact line search, from the other runs in equal parts to the last alone.

    Of two runs that is the exact optimum, as `engine.blend` finds it; of more, one of the line
    searches that it consists of.
    """
    from engine.selection.pixels import OofPixels, shared
    from engine.selection.sweep import sweep

    stores_M, labels_N = job.stores(), job.labels()
    M, C = len(stores_M), stores_M[0].shape[1]
    end_2MC = shared(np.array([[1 / (M - 1)] * (M - 1) + [0], [0] * (M - 1) + [1]]), C)
    frames_N = np.arange(len(labels_N))

    def search() -> Facts:
        pixels = OofPixels(tuple(stores_M), labels_N.__getitem__, np.zeros_like(frames_N), frames_N)
        return Facts(len(labels_N), mious=(sweep(pixels, end_2MC).peaks[0].miou,))

    return Prepared(search)


def blending_by(job: Job, search: Callable[..., tuple[Any, float]]) -> Prepared:
    """A search of the recipe's: 101 weights of the same line, or the published one by SLSQP.

    That is quick, because it does not leave equal weights.
    """
    stores_M, labels_N = job.stores(), job.labels()
    return Prepared(lambda: Facts(len(labels_N), mious=(search(stores_M, labels_N)[1],)))


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


def _forget_pages(job: Job) -> None:
    """Ask the system to drop the files' pages from its cache (man 2 posix_fadvise).

    It drops none that are still to be written, and has work left with what was just deleted: both
    are over before the clock starts.
    """
    os.sync()
    for sample in job.dataset.train.samples:
        for file in sample.present.values():
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
