"""Multi-scale flip test-time augmentation: one pass scores every temperature.

Axes: B batch, T temperature, C class, H W base pixels.
"""

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.config import InferenceConfig
from engine.runtime.device import DevicePolicy
from engine.views.frame_batches import FrameBatch, view_hw, view_input
from engine.views.networks import FoldNetwork
from kernels.tta_accumulate import zero_total

_log = logging.getLogger(__name__)


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
    first = networks[0]
    for scale in config.scales:
        hw = view_hw(base_hw, scale)
        image_BCHW = view_input(
            frames, hw, first.normalisation, first.in_channels, policy.operations.crop_resize
        )
        most = min(network.room.images(hw) for network in networks)
        if most < len(frames):
            _announce_split(hw, most)
        for flipped in (False, True) if config.flip else (False,):
            view_BCHW = image_BCHW.flip(-1) if flipped else image_BCHW
            for first_row in range(0, len(frames), most):
                rows = slice(first_row, first_row + most)
                part_BCHW = view_BCHW[rows].contiguous(memory_format=torch.channels_last)
                for network in networks:
                    policy.operations.tta_accumulate(
                        total_BTCHW[rows],
                        network.forward(part_BCHW).logits_BChw,
                        temperatures,
                        view_hw=hw,
                        flipped=flipped,
                        align_corners=network.align_corners,
                    )
    return total_BTCHW.div_(len(config.scales) * (1 + config.flip) * len(networks))


@functools.cache
def _announce_split(hw: tuple[int, int], most: int) -> None:
    _log.info("views of %d x %d: %d a pass, free memory holds no more", *hw, most)
