"""Group normalisation as an operation of PyTorch, its gradients by Numba on the CPU.

Axes: as in reference.py.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.group_norm import cpu, reference

_DIVISOR = 8
"""Of the channels: what is left of a vector PyTorch rounds otherwise."""
SHARES = (1, 2, 4)
"""Channels of a group whose sums we make as PyTorch does; it has vectors for 8 and more."""


def group_norm(x_BChw: Tensor, weight_C: Tensor, bias_C: Tensor, groups: int, eps: float) -> Tensor:
    """`reference.group_norm`, with the same bytes; the gradients are ours.

    Differentiable once, and not to be traced. The reference is run away from the CPU, on tensors
    that are not channels-last, on dtypes other than float32 and bfloat16 with float32 parameters,
    where groups have more than 4 channels, and where no gradient is asked for.
    """
    if not (torch.is_grad_enabled() and _suits(x_BChw, weight_C, groups)):
        return reference.group_norm(x_BChw, weight_C, bias_C, groups, eps)
    y_BChw: Tensor = _GroupNorm.apply(x_BChw, weight_C, bias_C, groups, eps)
    return y_BChw


def _suits(x_BChw: Tensor, weight_C: Tensor, groups: int) -> bool:
    C = x_BChw.shape[1]
    dtypes = x_BChw.dtype in (torch.float32, torch.bfloat16) and weight_C.dtype == torch.float32
    ours = x_BChw.device.type == "cpu" and dtypes and x_BChw.numel() > 0
    if not ours or C % _DIVISOR or C not in [groups * share for share in SHARES]:
        return False
    # One cell, or one channel, is in either layout, and PyTorch then takes the other.
    last = x_BChw.is_contiguous(memory_format=torch.channels_last)
    return last and not x_BChw.is_contiguous()


class _GroupNorm(torch.autograd.Function):
    """PyTorch's backward pass takes vectors of the channels of a group, of which there are two."""

    @staticmethod
    def forward(
        ctx: Any, x_BChw: Tensor, weight_C: Tensor, bias_C: Tensor, groups: int, eps: float
    ) -> Tensor:
        B, C, h, w = x_BChw.shape
        sizes = B, C, h * w, groups, eps
        y_BChw, *moments = torch.native_group_norm(x_BChw, weight_C, bias_C, *sizes)
        ctx.save_for_backward(x_BChw, weight_C, *moments)
        return y_BChw

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BChw: Tensor) -> tuple[Tensor | None, ...]:
        x_BChw, weight_C, mean_BG, inverse_BG = ctx.saved_tensors
        grad_BChw = grad_BChw.contiguous(memory_format=torch.channels_last)
        found = cpu.backward(grad_BChw, x_BChw, weight_C.detach(), mean_BG, inverse_BG)
        return (*found, None, None)
