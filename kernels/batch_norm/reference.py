"""Batch normalisation in training, and the activation after it, as PyTorch computes them.

Axes: B batch, C channel, h w cells.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class BatchNorm(NamedTuple):
    """A layer's affine part, and what it keeps for evaluation.

    Attributes:
        weight_C: float32.
        bias_C: float32.
        mean_C: float32, the running mean; updated.
        variance_C: float32, the running variance (of a sample); updated.
        momentum: share of the batch in both.
        eps: added to the batch's variance.
    """

    weight_C: Tensor
    bias_C: Tensor
    mean_C: Tensor
    variance_C: Tensor
    momentum: float
    eps: float


def batch_norm_clamp(x_BChw: Tensor, norm: BatchNorm, low: float, high: float) -> Tensor:
    """Normalise each channel over batch and cells, then cut off below `low` and above `high`.

    ReLU is (0, inf), ReLU6 (0, 6), no activation (-inf, inf). Updates the running statistics.

    Args:
        x_BChw: float32 or bfloat16.
        norm: of C channels.
        low: may be -inf.
        high: may be inf.

    Returns:
        (B, C, h, w) of its dtype; the gradient is 0 where it is cut off, and at both bounds.

    Raises:
        ValueError: the shapes do not fit together, or a channel has fewer than two values.
    """
    check(x_BChw, norm)
    running = norm.mean_C, norm.variance_C
    y_BChw = F.batch_norm(
        x_BChw, *running, norm.weight_C, norm.bias_C, True, norm.momentum, norm.eps
    )
    return F.hardtanh(y_BChw, low, high)


def check(x_BChw: Tensor, norm: BatchNorm, least: int = 2) -> None:
    """Raise the ValueErrors of `batch_norm_clamp`; a channel is to have `least` values."""
    if x_BChw.ndim != 4 or any(each.shape != x_BChw.shape[1:2] for each in norm[:4]):
        shapes = [tuple(each.shape) for each in norm[:4]]
        raise ValueError(f"norms of {shapes} do not fit cells {tuple(x_BChw.shape)}")
    if x_BChw.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"cells must be float32 or bfloat16, got {x_BChw.dtype}")
    if x_BChw.numel() < least * max(x_BChw.shape[1], 1):
        few = {1: "no value", 2: "fewer than two values"}[least]
        raise ValueError(f"a channel of {tuple(x_BChw.shape)} has {few}")
