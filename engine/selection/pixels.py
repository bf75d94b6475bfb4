"""The labelled pixels of several runs' stores, read frame by frame.

Axes: M models, N samples, C class, h w stored pixels, H W pixels of the labels, R W some rows of
them, F folds; 2 the ends of a line of weights.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from engine.runtime.progress import track
from kernels.blend_sweep import Crossings, frame_crossings, soft_counts

T = TypeVar("T")
Rows = tuple[int, int, int]
"""(first, step, height): which rows of a frame, see `kernels.blend_sweep.frame_crossings`."""


@dataclass(frozen=True, eq=False)
class OofPixels:
    """Stores of the same frames, and the frames' labels.

    Attributes:
        prob_MNChw: the stores: M arrays (N, C, h, w) float16, usually memory-mapped.
        read_label: gives the (H, W) uint8 labels of a sample, 255 = ignore; called from threads.
        fold_of_N: (N,) the fold that validates each sample.
        frames: samples that are looked at, ascending.
        step: every `step`-th row of labels is looked at, another one first in each frame.
        kept: those rows by frame, in memory; None = read them each time.
    """

    prob_MNChw: tuple[NDArray[np.float16], ...]
    read_label: Callable[[int], NDArray[np.uint8]]
    fold_of_N: NDArray[np.int64]
    frames: NDArray[np.int64]
    step: int = 1
    kept: Mapping[int, tuple[NDArray[np.uint8], Rows]] | None = None

    @property
    def models(self) -> int:
        """Number of stores M."""
        return len(self.prob_MNChw)

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.prob_MNChw[0].shape[1])

    @property
    def folds(self) -> int:
        """Number of folds F."""
        return int(self.fold_of_N.max()) + 1

    def without(self, fold: int) -> "OofPixels":
        """All frames but those that `fold` validates."""
        return replace(self, frames=self.frames[self.fold_of_N[self.frames] != fold])

    def thinned(self, pixels: int) -> "OofPixels":
        """So few rows of each frame that about `pixels` remain, whose labels are then kept."""
        height, width = self.read_label(int(self.frames[0])).shape
        step = max(1, min(len(self.frames) * height * width // pixels, height))
        rows = replace(self, step=step)
        return replace(rows, kept=dict(rows.each(rows._rows, "labels"))) if step > 1 else rows

    def probabilities(self, frame: int) -> list[NDArray[np.float32]]:
        """M arrays (C, h, w) of one frame."""
        # Torch converts half precision by vector instructions, NumPy bit by bit.
        return [
            torch.from_numpy(np.array(prob_NChw[frame])).float().numpy()
            for prob_NChw in self.prob_MNChw
        ]

    def crossings(self, end_2MC: NDArray[np.float64], frame: int) -> Crossings:
        """Where winners of one frame change along a line of weights."""
        label_RW, rows = self._rows(frame)
        return frame_crossings(self.probabilities(frame), end_2MC, label_RW, rows)

    def soft_counts(self) -> NDArray[np.float64]:
        """(2, M, C): see `kernels.blend_sweep.soft_counts`, summed over the frames."""
        total_2MC = np.zeros((2, self.models, self.classes))
        for _, frame_2MC in self.each(self._soft_counts, "soft counts"):
            total_2MC += frame_2MC
        return total_2MC

    def each(self, work: Callable[[int], T], name: str) -> Iterator[tuple[int, T]]:
        """Yield (frame, work(frame)) in order, on torch's number of threads, showing progress.

        Only a few results wait to be taken, so memory does not grow with the number of frames.
        """
        threads = torch.get_num_threads()
        waiting: deque[tuple[int, Future[T]]] = deque()
        with track(name, len(self.frames)) as advance, ThreadPoolExecutor(threads) as pool:
            for frame in map(int, self.frames):
                waiting.append((frame, pool.submit(work, frame)))
                if len(waiting) > 2 * threads:
                    first, done = waiting.popleft()
                    yield first, done.result()
                    advance(1)
            for first, done in waiting:
                yield first, done.result()
                advance(1)

    def sweep(self, end_2MC: NDArray[np.float64], name: str) -> Iterator[tuple[int, Crossings]]:
        """Yield (fold, crossings) of every frame along a line of weights."""
        for frame, crossings in self.each(partial(self.crossings, end_2MC), name):
            yield int(self.fold_of_N[frame]), crossings

    def _rows(self, frame: int) -> tuple[NDArray[np.uint8], Rows]:
        if self.kept is not None:
            return self.kept[frame]
        label_HW = self.read_label(frame)
        first = frame % self.step
        # A copy, so that the other rows need not stay in memory.
        return label_HW[first :: self.step].copy(), (first, self.step, len(label_HW))

    def _soft_counts(self, frame: int) -> NDArray[np.float64]:
        label_RW, rows = self._rows(frame)
        probabilities: list[Any] = self.probabilities(frame)
        return soft_counts(probabilities, label_RW, rows)


def shared(weight_M: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """(M, C): the same weights for every class."""
    return np.repeat(np.asarray(weight_M, np.float64)[:, None], classes, axis=1)
