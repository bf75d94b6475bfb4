"""Batch normalisation in training as an operation of PyTorch: Numba on the CPU, else its own.

Axes: as in reference.py.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.batch_norm import cpu, reference
from kernels.batch_norm.reference import BatchNorm, check

_DIVISOR = 8
"""Of the channels: what is left of a vector PyTorch rounds otherwise."""


def batch_norm_clamp(x_BChw: Tensor, norm: BatchNorm, low: float, high: float) -> Tensor:
    """`reference.batch_norm_clamp` in four passes for five, and backward in five for seven.

    Raises as that does. Differentiable once, and not to be traced. The same bytes as the reference,
    which is run where ours would not have them: away from the CPU, on tensors that are not
    channels-last, where the channels are no multiple of 8 and fewer values a channel than threads.
    """
    check(x_BChw, norm)
    if not suits(x_BChw):
        return reference.batch_norm_clamp(x_BChw, norm, low, high)
    y_BChw: Tensor = _BatchNormClamp.apply(x_BChw, *norm[:2], norm, (low, high))
    return y_BChw


def suits(x_BChw: Tensor) -> bool:
    """Whether our kernels take it."""
    C, N = x_BChw.shape[1], x_BChw.numel() // x_BChw.shape[1]
    ours = x_BChw.device.type == "cpu" and C % _DIVISOR == 0 and torch.get_num_threads() < N
    return ours and x_BChw.is_contiguous(memory_format=torch.channels_last)


class _BatchNormClamp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BChw: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        norm: BatchNorm,
        bounds: tuple[float, float],
    ) -> Tensor:
        plain = norm._replace(weight_C=weight_C.detach(), bias_C=bias_C.detach())
        y_BChw, ctx.moments = cpu.forward(x_BChw, plain, *bounds)
        ctx.cut, ctx.eps = cpu.affine(plain.weight_C, plain.bias_C, ctx.moments, *bounds), norm.eps
        ctx.save_for_backward(x_BChw, weight_C)
        return y_BChw

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BChw: Tensor) -> tuple[Tensor | None, ...]:
        x_BChw, weight_C = ctx.saved_tensors
        if grad_BChw.is_contiguous(memory_format=torch.channels_last):
            found = cpu.backward(grad_BChw, x_BChw, weight_C.detach(), ctx.moments, ctx.cut)
            return (*found, None, None)
        # Of mixed layouts PyTorch makes sums in another order.
        aten, bounds = torch.ops.aten, map(float, (ctx.cut.low, ctx.cut.high))
        slope_BChw = aten.hardtanh_backward(grad_BChw, cpu.uncut(x_BChw, ctx.cut), *bounds)
        given = slope_BChw, x_BChw, weight_C, None, None, *ctx.moments, True, ctx.eps
        return (*aten.native_batch_norm_backward(*given, [True] * 3), None, None)
