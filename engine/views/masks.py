"""Masks of new frames by a blend of runs; those of one run are `Predictor.masks`.

Axes: B batch, T temperature, C class, H W pixels of a frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from engine.frames.decode import Sample
from engine.views.predictor import Predictor


@dataclass(frozen=True, eq=False)
class BlendMember:
    """A run's part in a blend.

    Attributes:
        predictor: its folds and views, at its softmax temperature.
        weight_C: (C,) float64 weight of each class.
    """

    predictor: Predictor
    weight_C: NDArray[np.float64]


@torch.inference_mode()
def blend_masks(
    members: Sequence[BlendMember], samples: Sequence[Sample], start: int = 0
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """As `Predictor.masks`, for the weighted sum of several runs' probabilities.

    Each run predicts with its own views and temperature; its mean over views and folds is resized
    to the frame before it is weighted.
    """
    readers = [member.predictor.reader for member in members]
    reader = replace(
        readers[0],
        batch_size=min(reader.batch_size for reader in readers),
        depth=any(reader.depth for reader in readers),
    )
    for frames in reader.batches(samples, start):
        blend_BCHW = torch.zeros((), device=reader.device)
        for member in members:
            prob_BTCHW = member.predictor.probabilities(frames)
            wide_BCHW = F.interpolate(
                prob_BTCHW[:, 0], size=frames.hw, mode="bilinear", align_corners=False
            )
            weight_C = torch.from_numpy(member.weight_C).to(wide_BCHW)
            blend_BCHW = blend_BCHW + weight_C[:, None, None] * wide_BCHW
        yield frames.first, blend_BCHW.argmax(dim=1).to(torch.uint8).cpu().numpy()
