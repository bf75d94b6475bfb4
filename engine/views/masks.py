"""Masks of new frames by a blend of runs; those of one run are `Predictor.masks`.

Axes: M run, B batch, T temperature, C class, H W pixels of a frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.frames.decode import Sample
from engine.views.predictor import Predictor


@torch.inference_mode()
def blend_masks(
    predictors: Sequence[Predictor],
    weight_MC: NDArray[np.float64],
    samples: Sequence[Sample],
    start: int = 0,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """As `Predictor.masks`, for the weighted sum of several runs' probabilities.

    Args:
        predictors: M runs, each with its own views at its own temperature; its mean over views and
            folds is resized to the frame before it is weighted.
        weight_MC: (M, C) weight of each run and class.
        samples: frames to look at.
        start: frames to pass over.
    """
    readers = [predictor.reader for predictor in predictors]
    reader = replace(
        readers[0],
        batch_size=min(reader.batch_size for reader in readers),
        depth=any(reader.depth for reader in readers),
    )
    weight_MC11 = torch.from_numpy(weight_MC).to(reader.device, torch.float32)[..., None, None]

    def masks() -> Iterator[tuple[Tensor]]:
        for frames in reader.batches(samples, start):
            blend_BCHW = torch.zeros((), device=reader.device)
            for predictor, weight_C11 in zip(predictors, weight_MC11, strict=True):
                prob_BTCHW = predictor.probabilities(frames)
                wide_BCHW = F.interpolate(
                    prob_BTCHW[:, 0], size=frames.hw, mode="bilinear", align_corners=False
                )
                blend_BCHW = blend_BCHW + weight_C11 * wide_BCHW
            yield (blend_BCHW.argmax(dim=1).to(torch.uint8),)

    for (mask_BHW,), _ in predictors[0].fetch(masks()):
        yield start, mask_BHW.numpy()
        start += len(mask_BHW)
