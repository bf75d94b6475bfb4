"""FPN decoder, in the shape and with the parameter names of segmentation_models_pytorch 0.6.

Source: Kirillov, Girshick, He and Dollar, "Panoptic Feature Pyramid Networks", CVPR 2019.
Shapes: B batch, C channels, h w cells of stride 4 (a quarter of the input's size).
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig

_GROUPS = 32
"""Groups of each GroupNorm: the paper's, and part of every checkpoint."""


class FpnDecoder(nn.Module):
    """Four encoder features to one map, returned as two parts that need not be added up.

    smp upsamples each level to stride 4, adds them and applies dropout: `upsample(coarse) + fine`.
    Upsampling is linear, so the levels are added at stride 8, and the caller applies its (linear,
    pixelwise) head to both parts before it: few channels are upsampled instead of many.

    Each GroupNorm reads a convolution, which inductor runs as a kernel of its own. Keep it so: an
    upsampling that a GroupNorm reads directly is fused into its reduction and made 6 times slower
    (pytorch issue 189488, mended by pull request 191134); a test guards the order.

    Attributes:
        output_stride: that the encoder's last feature is to have.
        xavier_heads: whether heads start as smp initialises an FPN's; else as PyTorch makes them.

    Args:
        widths: of the features at strides 4, 8, 16, 32.
    """

    output_stride = 32
    xavier_heads = True

    def __init__(self, widths: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        pyramid, self.out_channels = config.pyramid_channels, config.segmentation_channels
        self.dropout = config.dropout
        c2, c3, c4, c5 = widths
        self.p5 = nn.Conv2d(c5, pyramid, kernel_size=1)
        self.p4, self.p3, self.p2 = (_TopDown(skip, pyramid) for skip in (c4, c3, c2))
        self.seg_blocks = nn.ModuleList(
            _Level(pyramid, self.out_channels, n_blocks) for n_blocks in (3, 2, 1, 1)
        )
        self.apply(_initialise)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """`coarse` (B, C, h / 2, w / 2) and `fine` (B, C, h, w), dropout applied."""
        c2, c3, c4, c5 = features
        s5, s4, s3, s2 = self.seg_blocks
        p5 = self.p5(c5)
        p4 = self.p4(p5, c4)
        p3 = self.p3(p4, c3)
        coarse, fine = s5(p5) + s4(p4) + s3(p3), s2(self.p2(p3, c2))
        if self.training and self.dropout:
            # One mask for both parts: a channel is dropped as a whole.
            mask = F.dropout(coarse.new_ones(*coarse.shape[:2], 1, 1), self.dropout)
            return coarse * mask, fine * mask
        return coarse, fine


def upsample(x_BCHW: Tensor) -> Tensor:
    """Bilinear x2 with aligned corners, as smp's FPN does between its blocks."""
    return F.interpolate(x_BCHW, scale_factor=2.0, mode="bilinear", align_corners=True)


class _TopDown(nn.Module):
    """Coarser pyramid level, nearest x2, plus the encoder feature brought to its width."""

    def __init__(self, skip_channels: int, pyramid_channels: int) -> None:
        super().__init__()
        self.skip_conv = nn.Conv2d(skip_channels, pyramid_channels, kernel_size=1)

    def forward(self, coarser: Tensor, skip: Tensor) -> Tensor:
        finer: Tensor = self.skip_conv(skip)
        return finer + F.interpolate(coarser, scale_factor=2.0, mode="nearest")


class _Level(nn.Module):
    """Blocks with an upsampling between each and the next."""

    def __init__(self, in_channels: int, out_channels: int, n_blocks: int) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * n_blocks
        self.block = nn.Sequential(*(_block(*ends) for ends in pairwise(widths)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        first, *rest = self.block
        x: Tensor = first(x_BCHW)
        for block in rest:
            x = block(upsample(x))
        return x


def _block(in_channels: int, out_channels: int) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    layers = nn.Sequential(conv, nn.GroupNorm(_GROUPS, out_channels), nn.ReLU(inplace=True))
    # Under the name that smp gives it.
    return nn.Sequential(OrderedDict(block=layers))


def _initialise(part: nn.Module) -> None:
    """The initialisation that smp gives a decoder (norms keep PyTorch's 1 and 0)."""
    if isinstance(part, nn.Conv2d):
        nn.init.kaiming_uniform_(part.weight, mode="fan_in", nonlinearity="relu")
        if part.bias is not None:
            nn.init.zeros_(part.bias)
