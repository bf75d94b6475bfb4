"""Encoder: any timm network that has features at strides 4, 8, 16 and 32.

Shapes: B batch, C channels, H W pixels of the input.
"""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
"""Strides of an encoder's features in pixels of the input, those that the decoders' sources read.

A feature has its stride of these, or the encoder's output stride if that is less.
"""


class Encoder(nn.Module):
    """A timm feature extractor; its parameters are named `model.*`, as in smp's `tu-` encoders.

    Attributes:
        channels: width of each feature, in the order of `STRIDES`.

    Args:
        name: a timm model name, with or without a pretrained tag.
        in_channels: 3 (RGB) or 4 (RGB and inverse depth).
        drop_path: rate of stochastic depth in the deepest block, in [0, 1).
        output_stride: of the last feature, as for `create_features`.

    Raises:
        ValueError: as `create_features`.
    """

    def __init__(
        self, name: str, in_channels: int, drop_path: float = 0.0, output_stride: int = STRIDES[-1]
    ) -> None:
        super().__init__()
        self.model, self.channels = create_features(name, in_channels, drop_path, output_stride)
        # Swin and a few others return NHWC, and say so.
        self._returns_nhwc = getattr(self.model, "output_fmt", None) == "NHWC"
        for module in self.model.modules():
            # In place, ReLU6 costs more: autograd keeps a copy of its input instead of the input
            # itself. Out of place, a step of EfficientNet-Lite0 takes 2 % less on a CPU.
            if isinstance(module, nn.ReLU6):
                module.inplace = False

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Features (B, channels[i], H / s, W / s), s of `STRIDES`; H and W multiples of 32."""
        features: list[Tensor] = self.model(image_BCHW)
        if self._returns_nhwc:
            # A view: permuted, an NHWC tensor is a channels-last NCHW tensor.
            return [feature.permute(0, 3, 1, 2) for feature in features]
        return features


_INSTEAD = "such as convnext_base or resnet50"
"""Encoders that an error proposes: they have all strides and can be dilated."""

_Create = Callable[..., Any]
"""timm's `create_model`, some options set; its networks' `feature_info` is not declared by timm."""


def create_features(
    name: str,
    in_channels: int,
    drop_path: float = 0.0,
    output_stride: int = STRIDES[-1],
    pretrained: bool = False,
    pretrained_file: str | None = None,
) -> tuple[nn.Module, tuple[int, ...]]:
    """A timm feature extractor that returns one feature for each of `STRIDES`.

    Args:
        name: a timm model name, with or without a pretrained tag.
        in_channels: channels of its input.
        drop_path: rate of stochastic depth in the deepest block, in [0, 1).
        output_stride: of the last feature. At 16 the last stage keeps the size of the stage
            before it, and its convolutions are dilated instead; the weights have the same shapes.
        pretrained: with timm's weights; False leaves random ones.
        pretrained_file: where those weights are; None: timm fetches them.

    Returns:
        The extractor, and the width of each feature.

    Raises:
        ValueError: timm has no such model, it has no features at some stride of `STRIDES`, it
            cannot be dilated and `output_stride` is not 32, or it has no stochastic depth and
            `drop_path` is not 0.
    """
    check_name(name)
    create = _with_all_strides(name)
    if output_stride != STRIDES[-1]:
        create = partial(create, output_stride=output_stride)
        _check_dilated(name, create, output_stride)
    if drop_path:
        create = partial(create, drop_path_rate=drop_path)
    file = {"file": pretrained_file}
    try:
        model = create(in_chans=in_channels, pretrained=pretrained, pretrained_cfg_overlay=file)
    except TypeError as error:
        if not drop_path or "drop_path_rate" not in str(error):
            raise
        raise ValueError(
            f"encoder {name!r} has no stochastic depth; set model.drop_path to 0"
        ) from error
    return model, tuple(model.feature_info.channels())


def check_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        ValueError: with the nearest names.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise ValueError(f"model.encoder = {name!r} is not a timm model; {hint}")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in tagged:
        known = ", ".join(tagged) or "none"
        raise ValueError(f"model.encoder = {name!r} has an unknown tag; timm has {known}")


def _with_all_strides(name: str) -> _Create:
    """How to create an extractor of features at `STRIDES` that takes inputs of any size."""
    create = partial(timm.create_model, name, features_only=True)
    try:
        features = _on_meta_device(create)
        if any(getattr(module, "strict_img_size", False) for module in features.modules()):
            # Swin refuses all sizes but its own unless told that it may pad its windows.
            create = partial(create, strict_img_size=False)
            features = _on_meta_device(create)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"encoder {name!r} cannot return features of any size in timm {timm.__version__} "
            f"({error}); choose another, {_INSTEAD}"
        ) from error
    info = features.feature_info
    # The deepest feature, where several share a stride.
    at_stride = dict(zip(info.reduction(), info.out_indices, strict=True))
    missing = [stride for stride in STRIDES if stride not in at_stride]
    if missing:
        raise ValueError(
            f"encoder {name!r} has features at strides {sorted(at_stride)} and none at {missing}; "
            f"choose one with strides 4, 8, 16, 32, {_INSTEAD}"
        )
    return partial(create, out_indices=tuple(at_stride[stride] for stride in STRIDES))


def _check_dilated(name: str, create: _Create, stride: int) -> None:
    """Refuse an encoder that cannot trade the stride of its last stages for dilation."""
    try:
        found = _on_meta_device(create).feature_info.reduction()
        why = f"its features have strides {found}"
    # timm has no one way to say it: an unexpected argument, or an assertion on its value.
    except (TypeError, AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        found, why = [], str(error) or type(error).__name__
    if found != [min(own, stride) for own in STRIDES]:
        raise ValueError(
            f"encoder {name!r} cannot be dilated to stride {stride} in timm {timm.__version__} "
            f"({why}); choose model.decoder = 'fpn', or another encoder, {_INSTEAD}"
        )


def _on_meta_device(create: _Create) -> Any:
    with torch.device("meta"):
        return create()
