"""Tiny stores of several runs, and what counting them in plain NumPy gives."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.selection.pixels import OofPixels

IGNORE = 255


def _resized(prob_Chw: NDArray[np.float64], hw: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear with aligned pixel centres, one axis after the other."""
    for axis, size in ((1, hw[0]), (2, hw[1])):
        source = prob_Chw.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
        first = np.floor(at).astype(int)
        part = (at - first).reshape([-1 if a == axis else 1 for a in range(3)])
        second = np.minimum(first + 1, source - 1)
        prob_Chw = (1 - part) * prob_Chw.take(first, axis) + part * prob_Chw.take(second, axis)
    return prob_Chw


def counts(pixels: OofPixels, weight_MC: NDArray[np.float64]) -> NDArray[np.int64]:
    """(C, C) truth by prediction, over the frames that are looked at."""
    count_CC = np.zeros((pixels.classes, pixels.classes), np.int64)
    for frame in map(int, pixels.frames):
        label_HW = pixels.read_label(frame)
        probs = [prob_NChw[frame].astype(np.float64) for prob_NChw in pixels.prob_MNChw]
        wide = [_resized(prob, label_HW.shape) for prob in probs]
        score_CHW = sum(
            w_C[:, None, None] * prob for w_C, prob in zip(weight_MC, wide, strict=True)
        )
        valid_HW = label_HW != IGNORE
        winner_HW = np.argmax(score_CHW, axis=0)
        np.add.at(count_CC, (label_HW[valid_HW], winner_HW[valid_HW]), 1)
    return count_CC


@pytest.fixture
def brute_miou() -> Callable[[OofPixels, NDArray[np.float64]], float]:
    """`brute_miou(pixels, weight_MC)`: mean IoU over the classes in truth or prediction."""

    def miou(pixels: OofPixels, weight_MC: NDArray[np.float64]) -> float:
        count_CC = counts(pixels, weight_MC)
        ious = []
        for c in range(len(count_CC)):
            union = count_CC[c].sum() + count_CC[:, c].sum() - count_CC[c, c]
            if union:
                ious.append(count_CC[c, c] / union)
        return float(np.mean(ious)) if ious else 0.0

    return miou


@pytest.fixture
def make_pixels() -> Callable[..., OofPixels]:
    """`make_pixels(seed, ...)`: models that are often right, each in its own way."""

    def make(
        seed: int,
        *,
        models: int = 2,
        classes: int = 3,
        frames: int = 4,
        sizes: tuple[tuple[int, int], tuple[int, int]] = ((3, 4), (6, 8)),
        folds: int = 2,
    ) -> OofPixels:
        hw, label_hw = sizes  # of the stored maps and of the labels
        rng = np.random.default_rng(seed)
        label_NHW = rng.integers(0, classes, (frames, *label_hw)).astype(np.uint8)
        rows = np.arange(hw[0]) * label_hw[0] // hw[0]
        columns = np.arange(hw[1]) * label_hw[1] // hw[1]
        truth_Nhw = label_NHW[:, rows][:, :, columns]
        label_NHW[rng.random(label_NHW.shape) < 0.15] = IGNORE
        stores = []
        for _ in range(models):
            prob_NhwC = rng.dirichlet(np.ones(classes), (frames, *hw))
            prob_NhwC += 0.4 * np.eye(classes)[truth_Nhw]
            prob_NhwC /= prob_NhwC.sum(axis=-1, keepdims=True)
            stores.append(np.ascontiguousarray(prob_NhwC.transpose(0, 3, 1, 2)).astype(np.float16))
        return OofPixels(
            tuple(stores),
            lambda frame: label_NHW[frame],
            np.arange(frames) % folds,
            np.arange(frames),
        )

    return make
