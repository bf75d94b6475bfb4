"""Confusion matrices of single frames, for every member of a blend and the blend itself.

Axes: N samples, K candidates, M models, C class (truth by prediction), F folds.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.runtime.progress import track
from engine.selection.pixels import OofPixels, shared
from kernels.confusion import blend_confusion

Array = NDArray[np.float64]


def frame_confusions(pixels: OofPixels, weight_MC: Array, honest_FMC: Array) -> NDArray[np.int64]:
    """Count each model alone, the blend, and the blend by the weights that the frame's fold lacks.

    Args:
        pixels: all frames, not thinned.
        weight_MC: (M, C) weights of the blend.
        honest_FMC: (F, M, C) for each fold, weights found without it.

    Returns:
        (M + 2, N, C, C) int64: the models in order, the blend, the honest blend. Probabilities are
        resized and blended in float64.
    """
    alone = [shared(one_M, pixels.classes) for one_M in np.eye(pixels.models)]

    def candidates(frame: int) -> Array:
        return np.stack([*alone, weight_MC, honest_FMC[pixels.fold_of_N[frame]]])

    return np.stack(list(_count_each(pixels, candidates)), axis=1)


def confusion_at(pixels: OofPixels, weight_MC: Array) -> NDArray[np.int64]:
    """(C, C) counts of one blend over all frames; a pass over the pixels."""
    count_CC = np.zeros((pixels.classes, pixels.classes), np.int64)
    for count_1CC in _count_each(pixels, lambda _: weight_MC[None]):
        count_CC += count_1CC[0]
    return count_CC


def _count_each(
    pixels: OofPixels, candidates: Callable[[int], Array]
) -> Iterator[NDArray[np.int64]]:
    """Yield (K, C, C) counts of each frame by the (K, M, C) weights that `candidates` gives."""
    with track("frames counted", len(pixels.frames)) as advance:
        for frame in map(int, pixels.frames):
            yield _count(pixels, frame, candidates(frame))
            advance(1)


def _count(pixels: OofPixels, frame: int, weight_KMC: Array) -> NDArray[np.int64]:
    """(K, C, C) counts of one frame."""
    prob_M1Chw = [torch.from_numpy(prob)[None].double() for prob in pixels.probabilities(frame)]
    label_1HW = torch.from_numpy(pixels.read_label(frame))[None]
    if (weight_KMC == weight_KMC[:, :, :1]).all():
        # Resized once for all candidates.
        return blend_confusion(
            prob_M1Chw, torch.from_numpy(weight_KMC[:, :, 0].copy()), label_1HW
        ).numpy()
    return np.concatenate([_count_scaled(prob_M1Chw, w_MC, label_1HW) for w_MC in weight_KMC])


def _count_scaled(
    prob_M1Chw: list[Tensor], weight_MC: Array, label_1HW: Tensor
) -> NDArray[np.int64]:
    """(1, C, C) counts of a blend that weights each class of each model."""
    scaled = [
        prob_1Chw * torch.from_numpy(weight_C)[:, None, None]
        for prob_1Chw, weight_C in zip(prob_M1Chw, weight_MC, strict=True)
    ]
    ones_1M = torch.ones((1, len(scaled)), dtype=torch.float64)
    return blend_confusion(scaled, ones_1M, label_1HW).numpy()
