"""Depthwise 7 x 7 convolution + LayerNorm as an operation of PyTorch: Triton on the GPU.

On the CPU it is the reference, whose convolution and norm are oneDNN's.

Axes: B batch, C channel, H W pixels, K = 7 taps a side, T = K^2, N = B H W.
"""

from typing import Any

import torch
from torch import Tensor

from kernels import gpu
from kernels.depthwise_norm import launch, reference


def depthwise_norm(
    x_BCHW: Tensor,
    weight_C1KK: Tensor,
    bias_C: Tensor,
    gamma_C: Tensor,
    beta_C: Tensor,
    eps: float,
) -> Tensor:
    """`reference.depthwise_norm`, on a GPU without its intermediate tensors; the same bytes always.

    The backward pass keeps the input, the normalised values in the input's dtype, and one number a
    pixel; it goes through the norm, the input and the taps in a pass each. It has no second
    derivative. Raises as the reference does.
    """
    if not gpu.uses_triton(x_BCHW):
        return reference.depthwise_norm(x_BCHW, weight_C1KK, bias_C, gamma_C, beta_C, eps)
    reference.check(x_BCHW, weight_C1KK, bias_C, gamma_C, beta_C)
    x_BCHW = reference.prepare(x_BCHW)
    # Threads are of neighbouring channels, whose taps of one place have to lie side by side.
    taps_TC = weight_C1KK.flatten(1).t().contiguous()
    parameters = (taps_TC, bias_C.contiguous(), gamma_C.contiguous(), beta_C.contiguous())
    gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (x_BCHW, *parameters))
    y_BCHW: Tensor = _forward(x_BCHW, *parameters, eps, gradient)[0]
    return y_BCHW


@torch.library.custom_op("roomsmith::depthwise_norm", mutates_args=())
def _forward(  # noqa: PLR0913 - an operator's schema knows no types of ours
    x_BCHW: Tensor,
    taps_TC: Tensor,
    bias_C: Tensor,
    gamma_C: Tensor,
    beta_C: Tensor,
    eps: float,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y; the normalised values and 1 / deviation (N,), or nothing if no gradient is wanted."""
    outputs = _outputs(x_BCHW, gradient)
    launch.forward(x_BCHW, taps_TC, (bias_C, gamma_C, beta_C), eps, outputs)
    return outputs


@_forward.register_fake
def _forward_shapes(x_BCHW: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x_BCHW, others[-1])


@torch.library.custom_op("roomsmith::depthwise_norm_backward", mutates_args=())
def _gradients(
    grad_y_BCHW: Tensor,
    x_BCHW: Tensor,
    normal_BCHW: Tensor,
    rstd_N: Tensor,
    taps_TC: Tensor,
    gamma_C: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input; of taps and, in the last row, bias; of gamma and beta, (2, C)."""
    slope_BCHW, grad_x_BCHW = torch.empty_like(x_BCHW), torch.empty_like(x_BCHW)
    grad_2C = launch.norm_backward(grad_y_BCHW, normal_BCHW, rstd_N, gamma_C, slope_BCHW)
    launch.input_backward(slope_BCHW, taps_TC, grad_x_BCHW)
    return grad_x_BCHW, launch.taps_backward(slope_BCHW, x_BCHW, taps_TC), grad_2C


@_gradients.register_fake
def _gradient_shapes(_: Tensor, x_BCHW: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, rstd_N, taps_TC, _ = others
    T, C = taps_TC.shape
    return torch.empty_like(x_BCHW), rstd_N.new_empty((T + 1, C)), rstd_N.new_empty((2, C))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    x_BCHW, taps_TC, _, gamma_C, *_ = inputs
    ctx.save_for_backward(x_BCHW, *output[1:], taps_TC, gamma_C)
    ctx.dtypes = [tensor.dtype for tensor in inputs[1:5]]
    ctx.set_materialize_grads(False)  # or the other two would get gradients full of zeros


def _backward(ctx: Any, grad_y_BCHW: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_y_BCHW is None:
        return (None,) * 7
    x_BCHW = ctx.saved_tensors[0]
    grad_y_BCHW = grad_y_BCHW.to(x_BCHW.dtype).contiguous(memory_format=torch.channels_last)
    grad_x_BCHW, grad_TC, grad_2C = _gradients(grad_y_BCHW, *ctx.saved_tensors)
    parts = (grad_TC[:-1], grad_TC[-1], *grad_2C)
    parameters = (part.to(dtype) for part, dtype in zip(parts, ctx.dtypes, strict=True))
    return (grad_x_BCHW, *parameters, None, None)


_forward.register_autograd(_backward, setup_context=_keep)


def _outputs(x_BCHW: Tensor, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what `_forward` returns."""
    real = torch.promote_types(x_BCHW.dtype, torch.float32)
    B, _, H, W = x_BCHW.shape
    normal_BCHW = torch.empty_like(x_BCHW) if gradient else x_BCHW.new_empty(0)
    rstd_N = x_BCHW.new_empty(B * H * W if gradient else 0, dtype=real)
    return torch.empty_like(x_BCHW), normal_BCHW, rstd_N
