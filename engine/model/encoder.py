"""Encoder: any timm network that has features at strides 4, 8, 16 and 32."""

from functools import cache, partial

import timm
import torch
from torch import Tensor, nn

from engine.model.adapted import dilated, with_drop_path
from engine.model.refusals import Create, of_no_size, unknown_encoder, without_strides

STRIDES = (4, 8, 16, 32)
"""Strides of an encoder's features in pixels, or its output stride where that is less."""


class Encoder(nn.Module):
    """A timm feature extractor; its parameters are named `model.*`, as in smp's `tu-` encoders.

    A ValueError as of `extractor`, or that it cannot have the `drop_path` or `output_stride`.
    """

    def __init__(
        self, name: str, in_channels: int, drop_path: float = 0.0, output_stride: int = STRIDES[-1]
    ) -> None:
        super().__init__()
        create = extractor(name)
        if output_stride != STRIDES[-1]:
            create = dilated(name, create, [min(stride, output_stride) for stride in STRIDES])
        if drop_path:
            create = with_drop_path(name, create, drop_path)
        model = create(in_chans=in_channels)
        self.model: nn.Module = model
        self.channels: tuple[int, ...] = tuple(model.feature_info.channels())
        """Width of each feature, in the order of `STRIDES`."""
        # Swin and a few others return NHWC, and say so.
        self._returns_nhwc = getattr(model, "output_fmt", None) == "NHWC"
        for module in self.model.modules():
            # In place, ReLU6 costs more: autograd keeps a copy of its input instead of the input
            # itself. Out of place, a step of EfficientNet-Lite0 takes 2 % less on a CPU.
            if isinstance(module, nn.ReLU6):
                module.inplace = False

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Features (B, channels[i], H / s, W / s), s of `STRIDES`; H and W multiples of 32."""
        features: list[Tensor] = self.model(image_BCHW)
        # A view: permuted, an NHWC tensor is a channels-last NCHW tensor.
        return [f.permute(0, 3, 1, 2) for f in features] if self._returns_nhwc else features


@cache
def extractor(name: str) -> Create:
    """What creates timm's network `name` so that it returns one feature for each of `STRIDES`.

    A ValueError where timm has none, it takes inputs of one size only, or lacks a stride.
    """
    check_name(name)
    create: Create = partial(timm.create_model, name, features_only=True)
    # On the meta device a network takes no memory and no time: here it only tells of itself.
    try:
        with torch.device("meta"):
            features = create()
            if any(getattr(module, "strict_img_size", False) for module in features.modules()):
                # Swin refuses all sizes but its own unless told that it may pad its windows.
                create = partial(create, strict_img_size=False)
                features = create()
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        raise of_no_size(name, error) from error
    info = features.feature_info
    # The deepest feature, where several share a stride.
    at_stride = dict(zip(info.reduction(), info.out_indices, strict=True))
    if not at_stride.keys() >= set(STRIDES):
        raise without_strides(name, at_stride, STRIDES)
    return partial(create, out_indices=tuple(at_stride[stride] for stride in STRIDES))


def check_name(name: str) -> None:
    """Refuse, by a ValueError with the nearest names, an encoder that timm does not know."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or (tag and not timm.is_model_pretrained(name)):
        raise unknown_encoder(name)
