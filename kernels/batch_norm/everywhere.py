"""Batch normalisation in training over the rows of several processes, each of which has some.

The moments are those of all rows: a process measures its own, in float32, and what is added up, in
float64, is sums, sums of squares and counts; backward the two sums of the gradient. So each cell is
normalised as one process with all rows would have, but for rounding, and any process may have fewer
rows than another, or a lone one.

Axes: B batch, C channel, h w cells.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.batch_norm import cpu
from kernels.batch_norm.op import suits
from kernels.batch_norm.reference import BatchNorm, check

Add = Callable[[Tensor], None]
"""Adds to a float64 vector, in place, those of all other processes: all call it in one order."""

_CELLS = (0, 2, 3)
"""The axes that a channel's moments go over."""


class Moments(NamedTuple):
    """Of the rows of all processes.

    Attributes:
        mean_C: float32, or of the cells' dtype if that is wider.
        variance_C: likewise, over the count.
        number: values a channel, a float64 scalar.
    """

    mean_C: Tensor
    variance_C: Tensor
    number: Tensor


class Running(NamedTuple):
    """What a layer keeps for evaluation; `momentum` is the share of the batch in both."""

    mean_C: Tensor
    variance_C: Tensor
    momentum: float


def batch_norm_everywhere(
    x_BChw: Tensor,
    weight_C: Tensor | None,
    bias_C: Tensor | None,
    running: Running | None,
    eps: float,
    add: Add,
) -> Tensor:
    """Normalise each channel over the rows and cells of all processes; differentiable once.

    `running` is updated, by the sample's variance, the same in every process; all together have two
    values a channel or more. The gradients of weights and biases are of this process's rows: they
    add up to those of all. The host waits for the device no more than `add` does.
    """
    y_BChw: Tensor = _Everywhere.apply(x_BChw, weight_C, bias_C, running, eps, add)
    return y_BChw


def batch_norm_clamp_everywhere(
    x_BChw: Tensor, norm: BatchNorm, low: float, high: float, add: Add
) -> Tensor:
    """The same and then `batch_norm_clamp`'s bounds, in our kernels where that would use them."""
    check(x_BChw, norm, least=1)
    if suits(x_BChw):
        y_BChw: Tensor = _ClampEverywhere.apply(x_BChw, *norm[:2], norm, (low, high), add)
        return y_BChw
    running = Running(norm.mean_C, norm.variance_C, norm.momentum)
    wide = batch_norm_everywhere(x_BChw, norm.weight_C, norm.bias_C, running, norm.eps, add)
    return F.hardtanh(wide, low, high)


class _Everywhere(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - as it is applied
        ctx: Any,
        x_BChw: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        running: Running | None,
        eps: float,
        add: Add,
    ) -> Tensor:
        variance_C, mean_C = torch.var_mean(_wide(x_BChw), _CELLS, correction=0)
        moments = _together(mean_C, variance_C, x_BChw.numel() // x_BChw.shape[1], add)
        if running is not None:
            _follow(running, moments)
        ctx.save_for_backward(x_BChw, weight_C, *moments)
        ctx.eps, ctx.add, ctx.has_bias = eps, add, bias_C is not None
        return F.batch_norm(x_BChw, *moments[:2], weight_C, bias_C, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BChw: Tensor) -> tuple[Tensor | None, ...]:
        x_BChw, weight_C, mean_C, variance_C, count = ctx.saved_tensors
        apart = _wide(x_BChw) - mean_C[:, None, None]
        slope, inverse_C = _wide(grad_BChw), (variance_C + ctx.eps).rsqrt()
        own_2C = torch.stack([slope.sum(_CELLS), (slope * apart).sum(_CELLS)])
        grad_mean_C, pull_C = _means(own_2C, count, ctx.add)
        scale_C = inverse_C if weight_C is None else inverse_C * weight_C
        pull_C = pull_C * inverse_C * inverse_C
        slope = slope - grad_mean_C[:, None, None] - apart * pull_C[:, None, None]
        grad_x = (slope * scale_C[:, None, None]).to(x_BChw.dtype)
        grad_weight = None if weight_C is None else own_2C[1] * inverse_C
        return grad_x, grad_weight, own_2C[0] if ctx.has_bias else None, None, None, None


class _ClampEverywhere(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - as it is applied
        ctx: Any,
        x_BChw: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        norm: BatchNorm,
        bounds: tuple[float, float],
        add: Add,
    ) -> Tensor:
        mean_C, variance_C = cpu.measured(x_BChw)
        moments = _together(mean_C, variance_C, x_BChw.numel() // x_BChw.shape[1], add)
        _follow(Running(norm.mean_C, norm.variance_C, norm.momentum), moments)
        ctx.moments = cpu.Moments(moments.mean_C, (moments.variance_C + norm.eps).rsqrt())
        ctx.cut = cpu.affine(weight_C.detach(), bias_C.detach(), ctx.moments, *bounds)
        ctx.count, ctx.add = moments.number, add
        ctx.save_for_backward(x_BChw, weight_C)
        return cpu.normalised(x_BChw, ctx.cut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BChw: Tensor) -> tuple[Tensor | None, ...]:
        x_BChw, weight_C = ctx.saved_tensors
        grad_BChw = grad_BChw.contiguous(memory_format=torch.channels_last)
        own_2C = cpu.summed_slopes(grad_BChw, x_BChw, ctx.moments, ctx.cut)
        means_2C = _means(own_2C, ctx.count, ctx.add)
        weight = weight_C.detach()
        grad_x = cpu.slopes(grad_BChw, x_BChw, weight, ctx.moments, ctx.cut, means_2C)
        return grad_x, own_2C[1] * ctx.moments.inverse_C, own_2C[0], None, None, None


def _together(mean_C: Tensor, variance_C: Tensor, count: int, add: Add) -> Moments:
    """The moments of all rows, from those of each process's own."""
    mean, variance = mean_C.double(), variance_C.double()
    counted = mean.new_tensor([count])
    total = torch.cat([mean * count, (variance + mean * mean) * count, counted])
    add(total)
    (sum_C, square_C), counted = total[:-1].view(2, -1), total[-1]
    mean = sum_C / counted
    variance = (square_C / counted - mean * mean).clamp(min=0.0)
    return Moments(mean.to(mean_C.dtype), variance.to(mean_C.dtype), counted)


def _means(own_2C: Tensor, count: Tensor, add: Add) -> Tensor:
    """Two sums of a gradient over all rows, a value."""
    total = own_2C.to(torch.float64, copy=True).flatten()
    add(total)
    return (total / count).to(own_2C.dtype).view_as(own_2C)


def _wide(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _follow(running: Running, moments: Moments) -> None:
    mean_C, variance_C, share = running
    sample_C = moments.variance_C * (moments.number / (moments.number - 1)).to(variance_C.dtype)
    mean_C.mul_(1 - share).add_(moments.mean_C, alpha=share)
    variance_C.mul_(1 - share).add_(sample_C, alpha=share)
