"""DeepLabV3+ decoder, in the shape and with the parameter names of segmentation_models_pytorch 0.6.

Source: Chen, Zhu, Papandreou, Schroff and Adam, "Encoder-Decoder with Atrous Separable Convolution
for Semantic Image Segmentation", ECCV 2018.
Shapes: B batch, C channels, h w cells of stride 4 (a quarter of the input's size).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SKIP_CHANNELS = 48
"""Width that the stride-4 feature is reduced to; the paper's, and part of every checkpoint."""

_UPSAMPLING = 4
"""Scale of the pyramid's map: from its stride, 16, to the decoder's, 4."""


class DeepLabV3PlusDecoder(nn.Module):
    """The first and the last feature of a dilated encoder to one map of stride 4.

    Args:
        encoder_channels: widths of the features; the first has stride 4, the last stride 16.
        channels: width of the pyramid and of the output.
        rates: dilations of the pyramid's three wide branches, in cells of stride 16.
        dropout: probability that a value behind the pyramid is dropped in training, in [0, 1).
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        channels: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.out_channels = channels
        self.aspp = nn.Sequential(
            _Pyramid(encoder_channels[-1], channels, rates, dropout),
            *_separable(channels, channels),
        )
        self.block1 = _pointwise(encoder_channels[0], _SKIP_CHANNELS)
        self.block2 = _separable(channels + _SKIP_CHANNELS, channels)

    def forward(self, features: Sequence[Tensor]) -> tuple[None, Tensor]:
        """Decode.

        Args:
            features: encoder features, the first at stride 4, the last at stride 16. A training
                batch holds at least two images: the pyramid normalises one value a channel and
                image.

        Returns:
            None (there is no part at stride 8, as FPN has) and the map (B, C, h, w).
        """
        context = F.interpolate(
            self.aspp(features[-1]), scale_factor=_UPSAMPLING, mode="bilinear", align_corners=True
        )
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


def _separable(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """3x3 within each channel, then 1x1 across them."""
    depthwise = nn.Conv2d(
        in_channels,
        in_channels,
        3,
        padding=dilation,
        dilation=dilation,
        groups=in_channels,
        bias=False,
    )
    pointwise = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    return _normalised(nn.Sequential(depthwise, pointwise), out_channels)


def _normalised(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
