"""The weights of a blend of stored out-of-fold probabilities, by each side.

Every side imports what it needs inside its function: all else here is light, so that the memory of
the libraries is theirs.

Axes: M runs, C classes, N frames, h w stored pixels; 2 the ends of a line.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.figures import Facts
from benchmarks.rows.job import Job
from benchmarks.sides import Prepared


def ours(job: Job) -> Prepared:
    """The exact line search, from the other runs in equal parts to the last alone.

    Of two runs that is the exact optimum, as `engine.blend` finds it; of more, one of the line
    searches that it consists of.
    """
    from engine.selection.pixels import OofPixels, shared
    from engine.selection.sweep import sweep

    stores_M, labels_N = job.stores(), job.labels()
    M, C = len(stores_M), stores_M[0].shape[1]
    ends_2M = np.array([[1 / (M - 1)] * (M - 1) + [0], [0] * (M - 1) + [1]])
    end_2MC = np.stack([shared(end_M, C) for end_M in ends_2M])
    frames_N = np.arange(len(labels_N))

    def search() -> Facts:
        pixels = OofPixels(tuple(stores_M), labels_N.__getitem__, np.zeros_like(frames_N), frames_N)
        return Facts(len(labels_N), mious=(sweep(pixels, end_2MC).peaks[0].miou,))

    return Prepared(search)


def grid(job: Job) -> Prepared:
    """The recipe's grid: 101 weights of the same line."""
    from benchmarks.plain.selection import grid_weights

    return _plain(job, grid_weights)


def slsqp(job: Job) -> Prepared:
    """The published search: quick, because it does not leave equal weights."""
    from benchmarks.plain.selection import slsqp_weights

    return _plain(job, slsqp_weights)


def _plain(job: Job, search: Callable[..., tuple[Any, float]]) -> Prepared:
    stores_M, labels_N = job.stores(), job.labels()
    return Prepared(lambda: Facts(len(labels_N), mious=(search(stores_M, labels_N)[1],)))
