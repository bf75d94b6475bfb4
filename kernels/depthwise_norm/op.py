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
    pixel; it goes through the norm in one pass and through the convolution in another. It has no
    second derivative. Raises as the reference does.
    """
    if not gpu.uses_triton(x_BCHW):
        return reference.depthwise_norm(x_BCHW, weight_C1KK, bias_C, gamma_C, beta_C, eps)
    parameters = (weight_C1KK, bias_C, gamma_C, beta_C)
    return _run(x_BCHW, parameters, eps, with_residual=False)[0]


def depthwise_norm_with_residual(
    x_BCHW: Tensor,
    weight_C1KK: Tensor,
    bias_C: Tensor,
    gamma_C: Tensor,
    beta_C: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """`reference.depthwise_norm_with_residual`, whose gradients meet in the kernel.

    What a block adds to its input in the end reaches that input twice: past the convolution and
    through it. Autograd would add the two up in a pass of its own. Here the backward pass is given
    both. On a GPU the second result is a view of x, not to be changed in place. Otherwise as
    `depthwise_norm`.
    """
    parameters = (weight_C1KK, bias_C, gamma_C, beta_C)
    if not gpu.uses_triton(x_BCHW):
        return reference.depthwise_norm_with_residual(x_BCHW, *parameters, eps)
    y_BCHW, x_BCHW = _run(x_BCHW, parameters, eps, with_residual=True)
    return y_BCHW, x_BCHW


def _run(
    x_BCHW: Tensor, parameters: tuple[Tensor, ...], eps: float, *, with_residual: bool
) -> tuple[Tensor, ...]:
    """y, and x as it was convolved if there is a residual."""
    weight_C1KK, bias_C, gamma_C, beta_C = parameters
    reference.check(x_BCHW, *parameters)
    x_BCHW = reference.prepare(x_BCHW)
    # Threads are of neighbouring channels, whose taps of one place have to lie side by side.
    taps_TC = weight_C1KK.flatten(1).t().contiguous()
    given = (x_BCHW, taps_TC, bias_C.contiguous(), gamma_C.contiguous(), beta_C.contiguous(), eps)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x_BCHW, *parameters)):
        results: tuple[Tensor, ...] = _DepthwiseNorm.apply(*given, with_residual)
        return results
    return _forward(*given, False)[0], x_BCHW


class _DepthwiseNorm(torch.autograd.Function):
    """`_forward` and its gradient.

    An operator must not return what it was given, nor a view of it. A Function may: autograd hands
    on a view, whose gradient comes here; compiled too (pytorch/pytorch#102992). Nothing is copied.
    """

    @staticmethod
    def forward(  # noqa: PLR0913 - what `_forward` takes
        ctx: Any,
        x_BCHW: Tensor,
        taps_TC: Tensor,
        bias_C: Tensor,
        gamma_C: Tensor,
        beta_C: Tensor,
        eps: float,
        with_residual: bool,
    ) -> tuple[Tensor, ...]:
        parameters = (taps_TC, bias_C, gamma_C, beta_C)
        y_BCHW, normal_BCHW, rstd_N = _forward(x_BCHW, *parameters, eps, True)
        ctx.save_for_backward(x_BCHW, normal_BCHW, rstd_N, taps_TC, gamma_C)
        ctx.dtypes = [tensor.dtype for tensor in parameters]
        ctx.set_materialize_grads(False)  # or a residual that nobody adds would get zeros
        # Two results only when asked: compiled, the second would get zeros all the same.
        return (y_BCHW, x_BCHW) if with_residual else (y_BCHW,)

    @staticmethod
    def backward(
        ctx: Any, grad_y_BCHW: Tensor | None, residual_BCHW: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        if grad_y_BCHW is None:
            return (residual_BCHW, *(None,) * 6)
        x_BCHW = ctx.saved_tensors[0]
        grad_y_BCHW = _like(x_BCHW, grad_y_BCHW)
        if residual_BCHW is not None:
            residual_BCHW = _like(x_BCHW, residual_BCHW)
        grad_x_BCHW, grad_TC, grad_2C = _gradients(grad_y_BCHW, residual_BCHW, *ctx.saved_tensors)
        parts = (grad_TC[:-1], grad_TC[-1], *grad_2C)
        parameters = (part.to(dtype) for part, dtype in zip(parts, ctx.dtypes, strict=True))
        return (grad_x_BCHW, *parameters, None, None)


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
def _gradients(  # noqa: PLR0913 - an operator's schema knows no types of ours
    grad_y_BCHW: Tensor,
    residual_BCHW: Tensor | None,
    x_BCHW: Tensor,
    normal_BCHW: Tensor,
    rstd_N: Tensor,
    taps_TC: Tensor,
    gamma_C: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, with the residual's if there is one; of the parameters.

    The second are those of taps and, in the last row, bias; the third of gamma and beta, (2, C).
    """
    slope_BCHW, grad_x_BCHW = torch.empty_like(x_BCHW), torch.empty_like(x_BCHW)
    grad_2C = launch.norm_backward(grad_y_BCHW, normal_BCHW, rstd_N, gamma_C, slope_BCHW)
    arrays = (slope_BCHW, x_BCHW, taps_TC, residual_BCHW, grad_x_BCHW)
    return grad_x_BCHW, launch.convolution_backward(*arrays), grad_2C


@_gradients.register_fake
def _gradient_shapes(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    _, _, x_BCHW, _, rstd_N, taps_TC, _ = inputs
    T, C = taps_TC.shape
    return torch.empty_like(x_BCHW), rstd_N.new_empty((T + 1, C)), rstd_N.new_empty((2, C))


def _like(x_BCHW: Tensor, gradient_BCHW: Tensor) -> Tensor:
    """A gradient in the dtype of x, channels-last."""
    return gradient_BCHW.to(x_BCHW.dtype).contiguous(memory_format=torch.channels_last)


def _outputs(x_BCHW: Tensor, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what `_forward` returns."""
    real = torch.promote_types(x_BCHW.dtype, torch.float32)
    B, _, H, W = x_BCHW.shape
    normal_BCHW = torch.empty_like(x_BCHW) if gradient else x_BCHW.new_empty(0)
    rstd_N = x_BCHW.new_empty(B * H * W if gradient else 0, dtype=real)
    return torch.empty_like(x_BCHW), normal_BCHW, rstd_N
