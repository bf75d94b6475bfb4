"""What a network sees of a frame: how channels are made. B: images. C: channels. H W: pixels."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config import ModelConfig
from engine.data.augment import Draws
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M
from kernels.crop_resize import Crops, Encoding, Frames

CropResize = Callable[[Frames, Tensor, tuple[int, int], Encoding], Crops]
"""`kernels.crop_resize.crop_resize`, or its reference."""


@dataclass(frozen=True)
class Normalisation:
    """The affine map that an encoder was pretrained with: (x - mean) / std, x in 0..255."""

    mean: tuple[float, float, float]
    """Of R, G, B, in units of 0..255."""
    std: tuple[float, float, float]
    """Likewise; ValueError unless positive."""

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"deviations of a normalisation must be positive, got {self.std}")


def read_normalisation(path: Path) -> Normalisation | None:
    """What the weights in a file of `engine.train` were trained with; None if it does not say."""
    try:
        with safe_open(path, framework="np") as file:
            written = json.loads((file.metadata() or {}).get("roomsmith", "{}"))
    except (OSError, SafetensorError):
        return None
    if "mean" not in written:
        return None
    return Normalisation(tuple(written["mean"]), tuple(written["std"]))


Derived = Callable[[Tensor, Tensor], Tensor]
"""From network input (B, 3 or 4, H, W) and depth in metres (B, H, W) to one more channel."""

DERIVED: dict[str, tuple[Derived, ...]] = {"rgb": (), "rgbd": ()}
"""Channels behind RGB and inverse depth, by `model.input`; neither published input has any."""


@dataclass(frozen=True)
class InputSpec:
    """The input of a network; ValueError if there are neither 3 nor 4 channels."""

    channels: int
    """3 (RGB), or 4 with inverse depth; `derived` come behind them."""
    normalisation: Normalisation
    depth_range_m: tuple[float, float] = (DEPTH_MIN_M, DEPTH_MAX_M)
    """Nearest and farthest depth that the fourth channel tells apart, metres."""
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


def crop_frames(
    frames: Frames, draws: Draws, crop_hw: tuple[int, int], spec: InputSpec, crop: CropResize
) -> Crops:
    """Float32 crops of the frames that `draws` count in, on their device; does not wait for it."""
    device, rgb = frames.image_P3.device, spec.normalisation
    draw_B8 = torch.from_numpy(draws.table_B8)
    if device.type == "cuda":  # from pinned memory the copy does not stop the host
        draw_B8 = draw_B8.pin_memory()
    encoding = Encoding(rgb.mean, rgb.std, spec.depth_range_m, spec.channels)
    crops = crop(frames, draw_B8.to(device, non_blocking=True), crop_hw, encoding)
    return crops._replace(image_BChw=spec.complete(crops.image_BChw, crops.depth_Bhw))
