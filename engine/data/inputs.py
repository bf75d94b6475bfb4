"""What a network sees of a frame: how its channels are made from pixels and depth.

B: images. C: channels. H W: pixels.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config import ModelConfig
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M


@dataclass(frozen=True)
class Normalisation:
    """The affine map that an encoder was pretrained with: (x - mean) / std, x in 0..255.

    Attributes:
        mean: mean of R, G, B in units of 0..255.
        std: standard deviation of R, G, B in units of 0..255, positive.

    Raises:
        ValueError: a deviation is not positive.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"deviations of a normalisation must be positive, got {self.std}")


def read_normalisation(path: Path) -> Normalisation | None:
    """What the weights in a file of `engine.train` were trained with.

    Args:
        path: any file.

    Returns:
        The normalisation; None if the file is not there, not ours, or does not say.
    """
    try:
        with safe_open(path, framework="np") as file:
            written = json.loads((file.metadata() or {}).get("roomsmith", "{}"))
    except (OSError, SafetensorError):
        return None
    if "mean" not in written:
        return None
    return Normalisation(mean=tuple(written["mean"]), std=tuple(written["std"]))


Derived = Callable[[Tensor, Tensor], Tensor]
"""From network input (B, 3 or 4, H, W) and depth in metres (B, H, W) to one more channel."""

DERIVED: dict[str, tuple[Derived, ...]] = {"rgb": (), "rgbd": ()}
"""Channels behind RGB and inverse depth, by `model.input`; neither published input has any."""


@dataclass(frozen=True)
class InputSpec:
    """The input of a network.

    Attributes:
        channels: 3 (RGB), or 4 with inverse depth; `derived` come behind them.
        normalisation: of the RGB channels.
        depth_range_m: nearest and farthest depth that the fourth channel tells apart, metres.
        derived: further channels.

    Raises:
        ValueError: there are neither 3 nor 4 channels.
    """

    channels: int
    normalisation: Normalisation
    depth_range_m: tuple[float, float] = (DEPTH_MIN_M, DEPTH_MAX_M)
    derived: tuple[Derived, ...] = ()

    def __post_init__(self) -> None:
        if self.channels not in (3, 4):
            raise ValueError(f"a network takes 3 (RGB) or 4 (RGB-D) channels, got {self.channels}")

    @classmethod
    def of(cls, config: ModelConfig, normalisation: Normalisation) -> "InputSpec":
        """What the network that a config describes sees."""
        derived = DERIVED[config.input]
        return cls(config.in_channels - len(derived), normalisation, derived=derived)

    @property
    def has_depth(self) -> bool:
        """Whether the network sees depth."""
        return self.channels == 4

    def complete(self, image_BCHW: Tensor, depth_BHW: Tensor) -> Tensor:
        """Append the derived channels to normalised RGB and inverse depth."""
        if not self.derived:
            return image_BCHW
        more = [channel(image_BCHW, depth_BHW)[:, None] for channel in self.derived]
        return torch.cat([image_BCHW, *more], 1).contiguous(memory_format=torch.channels_last)


def network_input(image_BCHW: Tensor, depth_BHW: Tensor | None, spec: InputSpec) -> Tensor:
    """Normalise RGB and, for four channels, append the inverse depth.

    With d the depth clipped to [near, far] = [0.71, 10] m, the fourth channel is
    (1/d - 1/far) / (1/near - 1/far): 1 near, 0 far; a missing depth is 0 as well.

    Args:
        image_BCHW: (B, 3, H, W) float32 in 0..255.
        depth_BHW: (B, H, W) float32 metres, 0 = missing; may be None for three channels.
        spec: of the network.

    Returns:
        (B, C, H, W) float32, channels-last, on the image's device; no host synchronisation.

    Raises:
        ValueError: four channels come without depth.
    """
    # Filled on the device one by one: torch.tensor(...).to(device) would stop the host.
    mean, std = spec.normalisation.mean, spec.normalisation.std
    channels = [
        image_BCHW[:, channel] * (1.0 / deviation) + -offset / deviation
        for channel, (offset, deviation) in enumerate(zip(mean, std, strict=True))
    ]
    if spec.has_depth:
        if depth_BHW is None:
            raise ValueError("4 input channels need depth, got none; give depth maps or use 3")
        channels.append(_inverse_depth(depth_BHW, *spec.depth_range_m))
    return torch.stack(channels, dim=-1).permute(0, 3, 1, 2)


def _inverse_depth(depth_BHW: Tensor, near_m: float, far_m: float) -> Tensor:
    far, near = 1 / far_m, 1 / near_m
    inverse_BHW = depth_BHW.clamp(near_m, far_m).reciprocal()
    return torch.where(depth_BHW > 0, (inverse_BHW - far) / (near - far), 0.0)
