"""Validation by a single view at the frames' base size, counted at the labels' resolution."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import Config
from engine.data.normalisation import Normalisation
from engine.data.resident_source import ResidentFrames
from engine.frames.index import Sample
from engine.model.network import Prediction
from engine.runtime.device import DevicePolicy
from engine.runtime.progress import track
from engine.views.frame_batches import frame_batches, view_hw, view_input
from kernels.tta_accumulate import zero_total


@torch.inference_mode()
def validate(
    forward: Callable[[Tensor], Prediction],
    samples: Sequence[Sample],
    config: Config,
    policy: DevicePolicy,
    normalisation: Normalisation,
    align_corners: bool,
    resident: ResidentFrames | None = None,
) -> NDArray[np.int64]:
    """Confusion matrix of single-view predictions.

    Args:
        forward: a network in evaluation mode, as `DevicePolicy.evaluation` gives it.
        samples: labelled frames.
        config: the run's config.
        policy: device and precision.
        normalisation: of the network's input.
        align_corners: how the network's logits are upsampled.
        resident: decoded frames that hold the samples; without them the files are read.

    Returns:
        (C, C) int64.
    """
    classes = len(config.data.classes)
    count_CC = torch.zeros(classes, classes, dtype=torch.int64, device=policy.device)
    batches = frame_batches(
        samples,
        config.inference.batch_size,
        policy.device,
        depth=config.model.input == "rgbd",
        label=True,
        workers=config.runtime.workers,
        resident=resident,
    )
    with track("validation", len(samples)) as advance:
        for frames in batches:
            base_hw = config.inference.base_hw or frames.hw
            hw = view_hw(base_hw, 1.0)
            prediction = forward(
                view_input(
                    frames,
                    hw,
                    normalisation,
                    config.model.in_channels,
                    policy.operations.crop_resize,
                )
            )
            total_BTCHW = zero_total(len(frames), 1, classes, base_hw, policy.device)
            policy.operations.tta_accumulate(
                total_BTCHW,
                prediction.logits_BChw,
                (1.0,),
                view_hw=hw,
                flipped=False,
                align_corners=align_corners,
            )
            assert frames.label_BHW is not None
            count_CC += policy.operations.probability_confusion(total_BTCHW[:, 0], frames.label_BHW)
            advance(len(frames))
    return count_CC.cpu().numpy()
