"""Depthwise 7 x 7 convolution and LayerNorm over channels, written as the mathematics reads.

Axes: B batch, C channel, H W pixels, K = 7 taps a side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 7
"""Taps a side, K: that of every ConvNeXt."""


def depthwise_norm(
    x_BCHW: Tensor,
    weight_C1KK: Tensor,
    bias_C: Tensor,
    gamma_C: Tensor,
    beta_C: Tensor,
    eps: float,
) -> Tensor:
    """How ConvNeXt's block begins ("A ConvNet for the 2020s", Liu et al. 2022): conv_dw, then norm.

    With u the depthwise convolution of x at stride 1 with zeros around the image, at each pixel

        y = gamma (u - mean u) / sqrt(var u + eps) + beta

    over the channels. All between x and y is computed in float32, in float64 if x is that.

    Args:
        x_BCHW: (B, C, H, W), floating; channels-last is what it is made for, others are copied.
            Under `torch.autocast` it is first cast as a convolution's input is.
        weight_C1KK: (C, 1, 7, 7), floating; its dtype need not be that of x, nor the others'.
        bias_C: (C,), of the convolution.
        gamma_C: (C,), scale after the norm.
        beta_C: (C,), shift after the norm.
        eps: added to the variance.

    Returns:
        (B, C, H, W), channels-last, of the dtype of x after that cast: under autocast too, where
        `F.layer_norm` would return float32 for the next product to cast back.

    Raises:
        ValueError: the shapes do not fit together.
    """
    check(x_BCHW, weight_C1KK, bias_C, gamma_C, beta_C)
    x_BCHW = prepare(x_BCHW)
    real = torch.promote_types(x_BCHW.dtype, torch.float32)
    weight, bias, gamma, beta = (p.to(real) for p in (weight_C1KK, bias_C, gamma_C, beta_C))
    with torch.autocast(x_BCHW.device.type, enabled=False):
        u_BCHW = F.conv2d(x_BCHW.to(real), weight, bias, padding=SIDE // 2, groups=len(weight))
        u_BHWC = u_BCHW.permute(0, 2, 3, 1)
        y_BHWC = F.layer_norm(u_BHWC, gamma.shape, gamma, beta, eps)
    return y_BHWC.to(x_BCHW.dtype).contiguous().permute(0, 3, 1, 2)


def depthwise_norm_with_residual(
    x_BCHW: Tensor,
    weight_C1KK: Tensor,
    bias_C: Tensor,
    gamma_C: Tensor,
    beta_C: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """`depthwise_norm`, and x as it was convolved, for the sum with which a block ends.

    Raises as that does. The second result has the dtype and layout of the first, and is x itself
    where x has them.
    """
    y_BCHW = depthwise_norm(x_BCHW, weight_C1KK, bias_C, gamma_C, beta_C, eps)
    return y_BCHW, prepare(x_BCHW)


def check(
    x_BCHW: Tensor, weight_C1KK: Tensor, bias_C: Tensor, gamma_C: Tensor, beta_C: Tensor
) -> None:
    """Raise a ValueError if the shapes of `depthwise_norm`'s arguments do not fit together."""
    if x_BCHW.ndim != 4:
        raise ValueError(f"the input must be (B, C, H, W), got {tuple(x_BCHW.shape)}")
    C = x_BCHW.shape[1]
    if weight_C1KK.shape != (C, 1, SIDE, SIDE):
        wanted = f"({C}, 1, {SIDE}, {SIDE})"
        raise ValueError(f"the taps must be {wanted}, got {tuple(weight_C1KK.shape)}")
    for name, vector in (("bias", bias_C), ("gamma", gamma_C), ("beta", beta_C)):
        if vector.shape != (C,):
            raise ValueError(f"{name} must be ({C},), got {tuple(vector.shape)}")


def prepare(x_BCHW: Tensor) -> Tensor:
    """The input in autocast's type, where that is on, and channels-last."""
    device = x_BCHW.device.type
    if torch.is_autocast_enabled(device) and x_BCHW.dtype != torch.float64:
        x_BCHW = x_BCHW.to(torch.get_autocast_dtype(device))
    return x_BCHW.contiguous(memory_format=torch.channels_last)
