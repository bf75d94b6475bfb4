"""What the network predicts from a decoder's parts, one at stride 8 and one at stride 4.

Shapes: B batch, C channels, K outputs of a head, h w cells of stride 4, N cells of a part.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model.fpn import UPSAMPLE

_ALIGNED = 8
"""Outputs of a product are multiples of it, so that in two bytes a cell's begin at one of 16."""


class Head(nn.ModuleList):
    """A 1x1 convolution of `upsample(coarse) + fine`, or of `fine`, without making that sum."""

    def __init__(self, in_channels: int, out_channels: int, xavier: bool) -> None:
        # A list of one gives the parameters smp's names, `0.weight` and `0.bias`.
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        super().__init__([conv])
        # smp initialises an FPN, and leaves a DeepLabV3+, decoder and head, as PyTorch made it.
        if xavier:
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    @property
    def conv(self) -> nn.Conv2d:
        """The one part."""
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        return conv

    def forward(self, coarse: Tensor | None, fine: Tensor) -> Tensor:
        """(B, K, h, w) from (B, C, h / 2, w / 2), if there is that part, and (B, C, h, w)."""
        conv = self.conv
        # The bias belongs to the sum, so it is added once, with the fine part.
        out: Tensor = conv(fine)
        return out if coarse is None else out + UPSAMPLE(F.conv2d(coarse, conv.weight))


def predict_at_once(
    heads: Sequence[Head], coarse_BChw: Tensor, fine_BChw: Tensor, mask_BC11: Tensor | None
) -> list[Tensor]:
    """What each head makes of both parts times `mask`, (B, K, h, w), in one product a part.

    The mask goes into the weights, each image's own. So features are read once for all heads, and
    are not written anew; what is multiplied and added has few channels.
    """
    convs = [head.conv for head in heads]
    counts = [conv.out_channels for conv in convs]
    counts.append(-sum(counts) % _ALIGNED)
    weight_KC = torch.cat([conv.weight.flatten(1) for conv in convs])
    bias_K = torch.cat([conv.bias for conv in convs if conv.bias is not None])
    weight_KC, bias_K = F.pad(weight_KC, (0, 0, 0, counts[-1])), F.pad(bias_K, (0, counts[-1]))
    if mask_BC11 is None:
        mask_BC11 = weight_KC.new_ones(len(fine_BChw), 1, 1, 1)
    weight_BCK = (weight_KC * mask_BC11[..., 0, 0][:, None]).mT
    out_BNK = torch.baddbmm(bias_K, _rows(fine_BChw), weight_BCK)
    fine = _maps(out_BNK, fine_BChw).split_with_sizes(counts, 1)
    out_BNK = torch.bmm(_rows(coarse_BChw), weight_BCK)
    coarse = UPSAMPLE(_maps(out_BNK, coarse_BChw)).split_with_sizes(counts, 1)
    return [fine[k] + coarse[k] for k in range(len(heads))]


def _rows(x_BChw: Tensor) -> Tensor:
    """(B, N, C), a view of what is channels-last."""
    return x_BChw.permute(0, 2, 3, 1).flatten(1, 2)


def _maps(out_BNK: Tensor, like_BChw: Tensor) -> Tensor:
    """(B, K, h, w), a view."""
    B, _, K = out_BNK.shape
    return out_BNK.view(B, *like_BChw.shape[2:], K).permute(0, 3, 1, 2)
