"""DeepLabV3+ decoder, in the shape and with the parameter names of segmentation_models_pytorch 0.6.

Source: Chen, Zhu, Papandreou, Schroff and Adam, "Encoder-Decoder with Atrous Separable Convolution
for Semantic Image Segmentation", ECCV 2018.
Shapes: B batch, C channels, h w cells of stride 4 (a quarter of the input's size).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from kernels.upsample import Upsample

_SKIP_CHANNELS = 48
"""Width that the stride-4 feature is reduced to; the paper's, and part of every checkpoint."""

_UPSAMPLE = Upsample(4.0)
"""The pyramid's map from its stride, 16, to the decoder's, 4; it has no weights."""


class DeepLabV3PlusDecoder(nn.Module):
    """The first and the last feature of a dilated encoder to one map of stride 4.

    Attributes:
        output_stride: that the encoder's last feature is to have.
        xavier_heads: as for `FpnDecoder`; smp leaves these heads as PyTorch makes them.
        least_images: of a pass in training, in which the pyramid normalises one value a channel and
            image over the images.
        out_channels: width of the output.

    Args:
        widths: of the features; the first has stride 4, the last stride 16.
        config: the pyramid's width, which is the output's, the dilations of its three wide
            branches in cells of stride 16, and the probability that a value behind it is dropped.
    """

    output_stride = 16
    xavier_heads = False
    least_images = 2

    def __init__(self, widths: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.out_channels = channels = config.aspp_channels
        pyramid = _Pyramid(widths[-1], channels, config.aspp_rates, config.aspp_dropout)
        self.aspp = nn.Sequential(pyramid, *_separable(channels, channels))
        self.block1 = _pointwise(widths[0], _SKIP_CHANNELS)
        self.block2 = _separable(channels + _SKIP_CHANNELS, channels)

    def forward(self, features: Sequence[Tensor]) -> tuple[None, Tensor]:
        """Decode.

        Args:
            features: encoder features, the first at stride 4, the last at stride 16; in training
                of at least `least_images`.

        Returns:
            None (there is no part at stride 8, as FPN has) and the map (B, C, h, w).
        """
        context = _UPSAMPLE(self.aspp(features[-1]))
        return None, self.block2(torch.cat([context, self.block1(features[0])], dim=1))


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: five looks at the same feature, from one cell to all."""

    def __init__(
        self, in_channels: int, channels: int, rates: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        looks = [_pointwise(in_channels, channels)]
        looks += [_separable(in_channels, channels, dilation=rate) for rate in rates]
        looks += [nn.Sequential(nn.AdaptiveAvgPool2d(1), *_pointwise(in_channels, channels))]
        self.convs = nn.ModuleList(looks)
        joined = _pointwise(len(looks) * channels, channels)
        self.project = nn.Sequential(*joined, nn.Dropout(dropout))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        looks = [conv(x_BCHW) for conv in self.convs]
        looks[-1] = looks[-1].expand_as(looks[0])
        out: Tensor = self.project(torch.cat(looks, dim=1))
        return out


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    return _normalised(conv, out_channels)


def _separable(channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """3x3 within each channel, then 1x1 across them."""
    depthwise = nn.Conv2d(
        channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False
    )
    pointwise = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
    return _normalised(nn.Sequential(depthwise, pointwise), out_channels)


def _normalised(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
