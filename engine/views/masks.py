"""Masks of new frames: the mean of a run's folds at one temperature, and blends of runs.

Axes: B batch, T temperature, C class, H W pixels of a frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from engine.config import Config
from engine.frames.index import Sample
from engine.runtime.device import DevicePolicy
from engine.views.frame_batches import frame_batches
from engine.views.networks import FoldNetwork
from engine.views.tta import mean_probabilities


@torch.inference_mode()
def predict_masks(
    networks: Sequence[FoldNetwork],
    samples: Sequence[Sample],
    temperature: float,
    config: Config,
    policy: DevicePolicy,
    start: int = 0,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (position of the first frame, (B, H, W) uint8 classes) for `samples[start:]`.

    Each mask has its frame's own size. Frames are grouped the same way wherever a call starts at
    the end of a group, so a resumed run and a second run give the same bytes.
    """
    batches = frame_batches(
        samples,
        config.inference.batch_size,
        policy.device,
        depth=config.model.input == "rgbd",
        label=False,
        workers=config.runtime.workers,
        start=start,
    )
    for frames in batches:
        prob_BTCHW = mean_probabilities(
            networks, frames, config.inference, (temperature,), len(config.data.classes), policy
        )
        mask_BHW = policy.operations.resized_argmax(prob_BTCHW[:, 0], frames.hw)
        yield frames.first, mask_BHW.cpu().numpy()


@dataclass(frozen=True, eq=False)
class BlendMember:
    """A run's part in a blend.

    Attributes:
        networks: its folds.
        config: its config: views and input.
        temperature: its softmax temperature.
        weight_C: (C,) float64 weight of each class.
    """

    networks: Sequence[FoldNetwork]
    config: Config
    temperature: float
    weight_C: NDArray[np.float64]


@torch.inference_mode()
def blend_masks(
    members: Sequence[BlendMember],
    samples: Sequence[Sample],
    policy: DevicePolicy,
    start: int = 0,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """As `predict_masks`, for the weighted sum of several runs' probabilities.

    Each run predicts with its own views and temperature; its mean over views and folds is resized
    to the frame before it is weighted.
    """
    batches = frame_batches(
        samples,
        min(member.config.inference.batch_size for member in members),
        policy.device,
        depth=any(member.config.model.input == "rgbd" for member in members),
        label=False,
        workers=members[0].config.runtime.workers,
        start=start,
    )
    for frames in batches:
        blend_BCHW = torch.zeros((), device=policy.device)
        for member in members:
            prob_BTCHW = mean_probabilities(
                member.networks,
                frames,
                member.config.inference,
                (member.temperature,),
                len(member.weight_C),
                policy,
            )
            wide_BCHW = F.interpolate(
                prob_BTCHW[:, 0], size=frames.hw, mode="bilinear", align_corners=False
            )
            weight_C = torch.from_numpy(member.weight_C).to(wide_BCHW)
            blend_BCHW = blend_BCHW + weight_C[:, None, None] * wide_BCHW
        yield frames.first, blend_BCHW.argmax(dim=1).to(torch.uint8).cpu().numpy()
