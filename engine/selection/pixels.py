"""The labelled pixels of several runs' stores, read and counted frame by frame.

Axes: M models, N samples, C class (truth by prediction), h w stored pixels, H W pixels of the
labels, R W some rows of them, F folds, K blends; 2 the ends of a line of weights.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from engine.runtime.progress import track
from kernels.blend_sweep import Crossings, frame_crossings, soft_counts
from kernels.confusion import blend_confusion

T = TypeVar("T")
Array = NDArray[np.float64]
Labels = NDArray[np.uint8]
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
        kept: the (R, W) labels that are looked at by frame, in memory; None = all, read each time.
    """

    prob_MNChw: tuple[NDArray[np.float16], ...]
    read_label: Callable[[int], Labels]
    fold_of_N: NDArray[np.int64]
    frames: NDArray[np.int64]
    kept: Mapping[int, tuple[Labels, Rows]] | None = None

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
        """Every so many rows, another one first in each frame, that about `pixels` remain.

        Their labels are kept; the same object where all rows remain.
        """
        height, width = self.read_label(int(self.frames[0])).shape
        step = max(1, min(len(self.frames) * height * width // pixels, height))

        def rows(frame: int) -> tuple[Labels, Rows]:
            label_HW, first = self.read_label(frame), frame % step
            # A copy, so that the other rows need not stay in memory.
            return label_HW[first::step].copy(), (first, step, len(label_HW))

        return self if step == 1 else replace(self, kept=dict(self.each(rows, "labels")))

    def probabilities(self, frame: int) -> list[NDArray[np.float32]]:
        """M arrays (C, h, w) of one frame."""
        # Torch converts half precision by vector instructions, NumPy bit by bit.
        half_MChw = (torch.from_numpy(np.array(store[frame])) for store in self.prob_MNChw)
        return [half_Chw.float().numpy() for half_Chw in half_MChw]

    def sweep(self, end_2MC: Array, name: str) -> Iterator[tuple[int, Crossings]]:
        """Yield (fold, crossings) of every frame along a line of weights."""

        def crossings(frame: int) -> Crossings:
            prob_MChw = [np.asarray(store[frame]) for store in self.prob_MNChw]
            return frame_crossings(prob_MChw, end_2MC, *self._rows(frame))

        for frame, found in self.each(crossings, name):
            yield int(self.fold_of_N[frame]), found

    def soft_counts(self) -> tuple[Array, NDArray[np.int64]]:
        """(2, M, C), see `kernels.blend_sweep.soft_counts`, and (C,) pixels by class, in all."""

        def count(frame: int) -> tuple[Array, NDArray[np.int64]]:
            label_RW, rows = self._rows(frame)
            truth_C = np.bincount(label_RW.ravel(), minlength=self.classes)[: self.classes]
            return soft_counts(self.probabilities(frame), label_RW, rows), truth_C

        total_2MC = np.zeros((2, self.models, self.classes))
        total_C = np.zeros(self.classes, np.int64)
        for _, (frame_2MC, truth_C) in self.each(count, "soft counts"):
            total_2MC += frame_2MC
            total_C += truth_C
        return total_2MC, total_C

    def _rows(self, frame: int) -> tuple[Labels, Rows]:
        if self.kept is not None:
            return self.kept[frame]
        label_HW = self.read_label(frame)
        return label_HW, (0, 1, len(label_HW))

    def each(self, work: Callable[[int], T], name: str) -> Iterator[tuple[int, T]]:
        """Yield (frame, work(frame)) in order, on torch's number of threads, showing progress.

        Only a few results wait to be taken, so memory does not grow with the number of frames.
        """
        threads, left = torch.get_num_threads(), map(int, self.frames)
        with track(name, len(self.frames)) as advance, ThreadPoolExecutor(threads) as pool:
            begun = ((frame, pool.submit(work, frame)) for frame in left)
            waiting = deque(islice(begun, 2 * threads))
            while waiting:
                waiting.extend(islice(begun, 1))
                frame, done = waiting.popleft()
                yield frame, done.result()
                advance(1)


def shared(weight_M: Array, classes: int) -> Array:
    """(..., M, C) from (..., M): the same weights for every class."""
    return np.repeat(np.asarray(weight_M, np.float64)[..., None], classes, axis=-1)


def frame_confusions(pixels: OofPixels, weight_FKMC: Array) -> NDArray[np.int64]:
    """Count the winners of K blends in every frame.

    Args:
        pixels: all frames, not thinned.
        weight_FKMC: (F, K, M, C) weights of the blends, by the fold that validates the frame.

    Returns:
        (K, N, C, C) int64. Probabilities are resized and blended in float64.
    """
    counts = []
    with track("frames counted", len(pixels.frames)) as advance:
        for frame in map(int, pixels.frames):
            counts.append(_count(pixels, frame, weight_FKMC[pixels.fold_of_N[frame]]))
            advance(1)
    return np.stack(counts, axis=1)


def _count(pixels: OofPixels, frame: int, weight_KMC: Array) -> NDArray[np.int64]:
    """(K, C, C) counts of one frame."""
    prob_M1Chw = [torch.from_numpy(prob)[None].double() for prob in pixels.probabilities(frame)]
    label_1HW = torch.from_numpy(pixels.read_label(frame))[None]
    if (weight_KMC == weight_KMC[:, :, :1]).all():
        # Resized once for all blends.
        return blend_confusion(prob_M1Chw, torch.tensor(weight_KMC[:, :, 0]), label_1HW).numpy()
    one_1M, parts = torch.ones((1, pixels.models), dtype=torch.float64), []
    for weight_MC11 in torch.tensor(weight_KMC)[..., None, None]:
        scaled = [prob * weight for prob, weight in zip(prob_M1Chw, weight_MC11, strict=True)]
        parts.append(blend_confusion(scaled, one_1M, label_1HW))
    return torch.cat(parts).numpy()
