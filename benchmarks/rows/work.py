"""What no implementation can do without: the network's own operations and the maps it reads."""

import functools

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.config import Config, ModelConfig
from engine.model.network import Network
from engine.views.frame_batches import view_hw

_INTERPOLATE = 6
"""Operations to interpolate a class of a pixel along row and column."""
_EXPONENTIAL = 20


def training_flops(config: Config) -> tuple[int, int]:
    """Operations of a forward and backward pass over a batch, and the number of weights.

    Backward counts twice: every product of the forward pass has two factors to find a gradient for.
    (PyTorch's counter takes a depthwise convolution for a dense one there.)
    """
    shape = (config.training.batch_size, config.model.in_channels, *config.data.crop_hw)
    flops, parameters = _flops(config.model, len(config.data.classes), shape)
    return 3 * flops, parameters


def inference_flops(
    config: Config, frames: int, hw: tuple[int, int], scales: tuple[float, ...], temperatures: int
) -> int:
    """Operations of `frames` frames of size `hw` by views: passes, softmax, resizing."""
    classes, base_hw = len(config.data.classes), config.inference.base_hw or hw
    flips = 2 if config.inference.flip else 1
    total = 0
    for scale in scales:
        height, width = view_hw(base_hw, scale)
        shape = (1, config.model.in_channels, height, width)
        passes, _ = _flops(config.model, classes, shape)
        softmax = height * width * classes * (_INTERPOLATE + temperatures * (_EXPONENTIAL + 3))
        resizing = base_hw[0] * base_hw[1] * classes * temperatures * (_INTERPOLATE + 1)
        total += passes + softmax + resizing
    return total * flips * frames


def counting_flops(frames: int, hw: tuple[int, int], classes: int, maps: int) -> int:
    """Operations to resize `maps` probability maps a frame to the label and find the largest."""
    return frames * maps * hw[0] * hw[1] * classes * (_INTERPOLATE + 1)


@functools.cache
def _flops(model: ModelConfig, classes: int, shape: tuple[int, ...]) -> tuple[int, int]:
    # Nothing is computed on the meta device, only counted.
    with torch.device("meta"):
        network = Network(model, classes).eval()
        image = torch.empty(shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops(), sum(weight.numel() for weight in network.parameters())
