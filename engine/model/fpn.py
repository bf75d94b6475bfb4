"""FPN decoder, in the shape and with the parameter names of segmentation_models_pytorch 0.6.

Source: Kirillov, Girshick, He and Dollar, "Panoptic Feature Pyramid Networks", CVPR 2019.
Shapes: B batch, C channels, h w cells of stride 4 (a quarter of the input's size).
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from kernels.group_norm_relu import GroupNorm, group_norm_relu
from kernels.upsample import Upsample

_GROUPS = 32
"""Groups of each GroupNorm: the paper's, and part of every checkpoint."""

UPSAMPLE = Upsample(2.0)
"""As smp's FPN does between its blocks; it has no weights, so there is one for all."""

_REPEAT = nn.Upsample(scale_factor=2.0, mode="nearest")
"""How a coarser level of the pyramid comes to the size of the next."""


class FpnDecoder(nn.Module):
    """Encoder features at strides 4, 8, 16, 32 to one map, in two parts that need not be added up.

    smp upsamples each level to stride 4, adds them and applies dropout: `upsample(coarse) + fine`.
    Upsampling is linear, so the levels are added at stride 8, and the caller applies its (linear,
    pixelwise) head to both parts before it: few channels are upsampled instead of many.

    Each GroupNorm reads a convolution, which inductor runs as a kernel of its own. Keep it so: an
    upsampling that a GroupNorm reads directly is fused into its reduction and made 6 times slower
    (pytorch issue 189488, mended by pull request 191134); a test guards the order.
    """

    output_stride = 32
    """That the encoder's last feature is to have."""
    xavier_heads = True
    """Whether heads start as smp initialises an FPN's; else as PyTorch makes them."""
    least_images = 1
    """That a pass in training needs."""
    fused = False
    """Whether each GroupNorm runs in one pass with what follows it, see `engine.model.fused`."""

    def __init__(self, widths: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        pyramid, self.out_channels = config.pyramid_channels, config.segmentation_channels
        self.drop = nn.Dropout(config.dropout)
        c2, c3, c4, c5 = widths
        self.p5 = nn.Conv2d(c5, pyramid, kernel_size=1)
        self.p4, self.p3, self.p2 = (
            nn.Sequential(OrderedDict(skip_conv=nn.Conv2d(skip, pyramid, kernel_size=1)))
            for skip in (c4, c3, c2)
        )
        self.seg_blocks = nn.ModuleList(
            _level(pyramid, self.out_channels, n_blocks) for n_blocks in (3, 2, 1, 1)
        )
        self.apply(_initialise)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """`coarse` (B, C, h / 2, w / 2) and `fine` (B, C, h, w), dropout applied."""
        coarse, fine = self.levels(features)
        mask = self.draw_mask(coarse)
        return (coarse, fine) if mask is None else (coarse * mask, fine * mask)

    def levels(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The same before dropout."""
        c2, c3, c4, c5 = features
        s5, s4, s3, s2 = self.seg_blocks
        p5 = self.p5(c5)
        p4 = self.p4(c4) + _REPEAT(p5)
        p3 = self.p3(c3) + _REPEAT(p4)
        if self.fused:
            coarse = _fused(s3, p3, _fused(s4, p4, _fused(s5, p5)))
            fine = _fused(s2, self.p2(c2) + _REPEAT(p3))
        else:
            coarse, fine = s5(p5) + s4(p4) + s3(p3), s2(self.p2(c2) + _REPEAT(p3))
        return coarse, fine

    def draw_mask(self, coarse: Tensor) -> Tensor | None:
        """What dropout multiplies both parts by, (B, C, 1, 1): a channel is dropped as a whole."""
        if not (self.training and self.drop.p):
            return None
        mask: Tensor = self.drop(coarse.new_ones(*coarse.shape[:2], 1, 1))
        return mask


def _fused(level: nn.Module, x_BChw: Tensor, added_BCHW: Tensor | None = None) -> Tensor:
    """`level(x_BChw) + added_BCHW`, each norm in one pass with its ReLU and what comes after."""
    convs = [part for part in level.modules() if isinstance(part, nn.Conv2d)]
    norms = [part for part in level.modules() if isinstance(part, nn.GroupNorm)]
    for conv, norm in zip(convs, norms, strict=True):
        last = norm is norms[-1]
        x_BChw = group_norm_relu(
            conv(x_BChw),
            GroupNorm(norm.weight, norm.bias, norm.num_groups, norm.eps),
            doubled=not last,
            added_BCHW=added_BCHW if last else None,
        )
    return x_BChw


class AnyGroupNorm(nn.GroupNorm):
    """One that takes groups of one value too, which become their bias.

    At stride 32 a view of 32 x 32 pixels has such groups, which `torch.nn.functional` refuses, as
    it does for a batch norm that trains.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name for it
        """As PyTorch's."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _level(in_channels: int, out_channels: int, n_blocks: int) -> nn.Module:
    """Blocks with an upsampling between each and the next, under the names that smp gives them."""
    blocks = []
    for n in range(n_blocks):
        width = out_channels if n else in_channels
        conv = nn.Conv2d(width, out_channels, kernel_size=3, padding=1, bias=False)
        norm = AnyGroupNorm(_GROUPS, out_channels)
        parts: dict[str, nn.Module] = {"up": UPSAMPLE} if n else {}
        parts["block"] = nn.Sequential(conv, norm, nn.ReLU(inplace=True))
        blocks.append(nn.Sequential(OrderedDict(parts)))
    return nn.Sequential(OrderedDict(block=nn.Sequential(*blocks)))


def _initialise(part: nn.Module) -> None:
    """The initialisation that smp gives a decoder (norms keep PyTorch's 1 and 0)."""
    if isinstance(part, nn.Conv2d):
        nn.init.kaiming_uniform_(part.weight, mode="fan_in", nonlinearity="relu")
        if part.bias is not None:
            nn.init.zeros_(part.bias)
