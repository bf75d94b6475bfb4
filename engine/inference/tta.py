"""Multi-scale flip test-time augmentation: one pass scores every temperature.

Axes: B batch, T temperature, C class, H W base pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.config import InferenceConfig
from engine.data.views import FrameBatch, view_hw, view_input
from engine.device import DevicePolicy
from engine.inference.networks import FoldNetwork
from kernels.tta_accumulate import zero_total


@torch.inference_mode()
def mean_probabilities(
    networks: Sequence[FoldNetwork],
    frames: FrameBatch,
    config: InferenceConfig,
    temperatures: Sequence[float],
    classes: int,
    policy: DevicePolicy,
) -> Tensor:
    """Class probabilities of frames: the mean over networks and views.

    Args:
        networks: one for out-of-fold frames, all of a run for new frames.
        frames: decoded frames of one size, on the policy's device.
        config: scales, flip and base size.
        temperatures: T softmax temperatures; the forward passes are shared by all of them.
        classes: number of classes C.
        policy: device and precision.

    Returns:
        (B, T, C, H, W) float32 at the base size.
    """
    base_hw = config.base_hw or frames.hw
    total_BTCHW = zero_total(len(frames), len(temperatures), classes, base_hw, policy.device)
    flips = (False, True) if config.flip else (False,)
    first = networks[0]
    for scale in config.scales:
        hw = view_hw(base_hw, scale)
        image_BCHW = view_input(
            frames, hw, first.normalisation, first.in_channels, policy.operations.crop_resize
        )
        for flipped in flips:
            if flipped:
                image_BCHW = image_BCHW.flip(-1).contiguous(memory_format=torch.channels_last)
            for network in networks:
                prediction = network.forward(image_BCHW)
                policy.operations.tta_accumulate(
                    total_BTCHW,
                    prediction.logits_BChw,
                    temperatures,
                    view_hw=hw,
                    flipped=flipped,
                    align_corners=network.align_corners,
                )
    return total_BTCHW.div_(len(config.scales) * len(flips) * len(networks))
