"""Boundary-weighted cross-entropy as an operation of PyTorch: Numba on the CPU, Triton on the GPU.

Both find loss and gradient in one sweep, so what the backward pass keeps is the gradient itself,
one number a logit, and what it does is one multiplication.

Axes: B batch, C class, H W pixels, h w strided cells.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels import gpu
from kernels.boundary_ce import cpu, launch
from kernels.boundary_ce.reference import EPSILON, Weights, check


def boundary_ce(
    logits_BChw: Tensor,
    label_BHW: Tensor,
    class_weight_C: Tensor,
    boundary_weight: float,
    *,
    align_corners: bool,
    ignored_edges: bool = False,
) -> Tensor:
    """`reference.boundary_ce` without storing the upsampled logits; the same bytes every time.

    Raises as that does. No gradient flows to the class weights. Logits that are neither
    channels-last nor contiguous are copied. A label that is neither a class nor 255 is a ValueError
    on the CPU; on CUDA, where telling would cost a synchronisation, its pixel weighs 0 but counts.
    """
    check(logits_BChw, label_BHW, class_weight_C)
    gradient = torch.is_grad_enabled() and logits_BChw.requires_grad
    weights = Weights(class_weight_C, boundary_weight, ignored_edges)
    loss: Tensor = _sweep(logits_BChw, label_BHW, *weights, align_corners, gradient)[0]
    return loss


@torch.library.custom_op("roomsmith::boundary_ce", mutates_args=())
def _sweep(  # noqa: PLR0913 - an operator's schema knows no types of ours
    logits_BChw: Tensor,
    label_BHW: Tensor,
    class_weight_C: Tensor,
    boundary_weight: float,
    ignored_edges: bool,
    align_corners: bool,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss; 1 / (sum of weights + epsilon), float64; gradient before that factor, or nothing.

    The gradient has the layout of the logits on the CPU; on the GPU that of `launch.Swept`.
    """
    x_BChw, label_BHW = _dense(logits_BChw), label_BHW.contiguous()
    if gpu.uses_triton(x_BChw):
        weights = Weights(class_weight_C, boundary_weight, ignored_edges)
        return launch.sweep(x_BChw, label_BHW, weights, align_corners, gradient)
    slope = _slope(x_BChw, gradient)
    weights = Weights(class_weight_C.to(slope.dtype), boundary_weight, ignored_edges)
    numerator, weight = cpu.sweep(x_BChw, slope, label_BHW, weights, align_corners)
    factor = 1 / (weight + EPSILON)
    return (numerator * factor).to(slope.dtype), factor, slope


@_sweep.register_fake
def _sweep_shapes(logits_BChw: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    x_BChw, gradient = _dense(logits_BChw), others[-1]
    if gpu.uses_triton(x_BChw):
        return launch.empty(x_BChw, gradient)
    slope = _slope(x_BChw, gradient)
    return slope.new_empty(()), x_BChw.new_empty((), dtype=torch.float64), slope


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])
    ctx.logits_dtype, ctx.logits_shape = inputs[0].dtype, inputs[0].shape
    ctx.channels_last = _is_channels_last(inputs[0])
    ctx.set_materialize_grads(False)  # or the other two would get gradients full of zeros


def _backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    factor, slope = ctx.saved_tensors
    grad = None
    if grad_loss is not None and gpu.uses_triton(slope):
        layout = ctx.logits_shape, ctx.logits_dtype, ctx.channels_last
        grad = _finish(factor, slope, grad_loss, *layout)
    elif grad_loss is not None:
        grad = (slope * (grad_loss * factor)).to(ctx.logits_dtype)
    return (grad, *(None,) * 6)


_sweep.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("roomsmith::boundary_ce_backward", mutates_args=())
def _finish(
    factor: Tensor,
    slope_BSXRCL: Tensor,
    grad_loss: Tensor,
    shape: list[int],
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    """The gradient of the logits, on the GPU, where one launch multiplies and puts it together."""
    gradient_BChw = _gradient(slope_BSXRCL, shape, dtype, channels_last)
    launch.finish((factor, slope_BSXRCL), grad_loss, gradient_BChw)
    return gradient_BChw


@_finish.register_fake
def _finish_shapes(_factor: Tensor, slope: Tensor, _grad_loss: Tensor, *layout: Any) -> Tensor:
    return _gradient(slope, *layout)


def _gradient(
    slope: Tensor, shape: Sequence[int], dtype: torch.dtype, channels_last: bool
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=slope.device, memory_format=layout)


def _is_channels_last(logits_BChw: Tensor) -> bool:
    return logits_BChw.is_contiguous(memory_format=torch.channels_last)


def _dense(logits_BChw: Tensor) -> Tensor:
    """The logits in a layout that fills its memory."""
    return logits_BChw if _is_channels_last(logits_BChw) else logits_BChw.contiguous()


def _slope(x_BChw: Tensor, gradient: bool) -> Tensor:
    """Room for the gradient of logits in their layout, or none."""
    real = torch.promote_types(x_BChw.dtype, torch.float32)
    return torch.empty_like(x_BChw, dtype=real) if gradient else x_BChw.new_empty(0, dtype=real)
