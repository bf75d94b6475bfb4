"""A depthwise convolution, as PyTorch computes it.

Axes: B batch, C channels, H W cells, Y X cells of the result, K taps of a side.
"""

import torch.nn.functional as F
from torch import Tensor


def depthwise_conv(
    x_BCHW: Tensor, weight_C1KK: Tensor, bias_C: Tensor | None, stride: int, pad: int
) -> Tensor:
    """Convolve each channel by itself.

    Args:
        x_BCHW: floating.
        weight_C1KK: of its dtype.
        bias_C: too.
        stride: in both directions.
        pad: zeros on all four sides.

    Returns:
        (B, C, Y, X).
    """
    return F.conv2d(x_BCHW, weight_C1KK, bias_C, stride, pad, groups=x_BCHW.shape[1])
