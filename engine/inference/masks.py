"""Masks of new frames: the mean of a run's folds at one temperature."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.config import Config
from engine.data.index import Sample
from engine.data.views import frame_batches
from engine.device import DevicePolicy
from engine.inference.networks import FoldNetwork
from engine.inference.tta import mean_probabilities


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
        workers=config.data.workers,
        start=start,
    )
    for frames in batches:
        prob_BTCHW = mean_probabilities(
            networks, frames, config.inference, (temperature,), len(config.data.classes), policy
        )
        mask_BHW = policy.operations.resized_argmax(prob_BTCHW[:, 0], frames.hw)
        yield frames.first, mask_BHW.cpu().numpy()
