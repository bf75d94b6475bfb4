"""GroupNorm and ReLU as an operation of PyTorch: Triton on the GPU, PyTorch's own on the CPU.

Axes: as in reference.py; G groups.
"""

from typing import Any

import torch
from torch import Tensor

from kernels import gpu
from kernels.group_norm_relu import launch, reference
from kernels.group_norm_relu.reference import GroupNorm, check


def group_norm_relu(
    x_BChw: Tensor, norm: GroupNorm, *, doubled: bool = False, added_BCHW: Tensor | None = None
) -> Tensor:
    """`reference.group_norm_relu`; on a GPU the normalised cells are stored once, as the result.

    Raises as that does. Differentiable once; the same bytes every time: sums are made in an order
    that shapes decide, and the gradient of the upsampling gathers. The backward pass keeps the
    input and 2 numbers a group. Tensors that are not channels-last are copied. Does not wait for
    the device. There an image's output of 2^31 values is a ValueError too.
    """
    if not gpu.uses_triton(x_BChw):
        return reference.group_norm_relu(x_BChw, norm, doubled=doubled, added_BCHW=added_BCHW)
    check(x_BChw, norm, doubled, added_BCHW)
    if x_BChw[:1].numel() * (4 if doubled else 1) >= 2**31:
        raise ValueError(
            f"an image of {tuple(x_BChw.shape)} has too many values to number in int32"
        )
    y_BCHW: Tensor = _forward(x_BChw, *norm, doubled, added_BCHW)[0]
    return y_BCHW


@torch.library.custom_op("roomsmith::group_norm_relu", mutates_args=())
def _forward(  # noqa: PLR0913 - an operator's schema knows no types of ours
    x_BChw: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    groups: int,
    eps: float,
    doubled: bool,
    added_BCHW: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The result; mean and 1 / deviation of each image's groups."""
    norm = GroupNorm(weight_C.contiguous(), bias_C.contiguous(), groups, eps)
    added = None if added_BCHW is None else _dense(added_BCHW)
    return launch.forward(_dense(x_BChw), norm, doubled, added)


@_forward.register_fake
def _forward_shapes(x_BChw: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    groups, doubled = others[2], others[4]
    B, C, h, w = x_BChw.shape
    hw = (2 * h, 2 * w) if doubled else (h, w)
    y_BCHW = x_BChw.new_empty((B, *hw, C)).permute(0, 3, 1, 2)
    return y_BCHW, x_BChw.new_empty((B, groups, 2), dtype=launch.real(x_BChw))


@torch.library.custom_op("roomsmith::group_norm_relu_backward", mutates_args=())
def _gradients(
    grad_BCHW: Tensor,
    x_BChw: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    moment_BG2: Tensor,
    doubled: bool,
) -> tuple[Tensor, Tensor]:
    """The gradient of the input; (2, C) those of weights and biases."""
    affine = (weight_C.contiguous(), bias_C.contiguous())
    return launch.backward(_dense(grad_BCHW), _dense(x_BChw), *affine, moment_BG2, doubled)


@_gradients.register_fake
def _gradient_shapes(*inputs: Any) -> tuple[Tensor, Tensor]:
    x_BChw: Tensor = inputs[1]
    grad_BChw = torch.empty_like(x_BChw, memory_format=torch.channels_last)
    return grad_BChw, x_BChw.new_empty((2, x_BChw.shape[1]), dtype=launch.real(x_BChw))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x_BChw, weight_C, bias_C, _, _, ctx.doubled, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x_BChw, weight_C, bias_C, output[1])
    ctx.set_materialize_grads(False)  # or the moments would get a gradient full of zeros


def _backward(ctx: Any, grad_BCHW: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad_BCHW is None:
        return (None,) * 7
    _, weight_C, bias_C, _ = ctx.saved_tensors
    grad_BChw, affine_2C = _gradients(grad_BCHW, *ctx.saved_tensors, ctx.doubled)
    affine = (affine_2C[0].to(weight_C.dtype), affine_2C[1].to(bias_C.dtype))
    added = grad_BCHW if ctx.needs_input_grad[6] else None
    return (grad_BChw, *affine, None, None, None, added)


_forward.register_autograd(_backward, setup_context=_keep)


def _dense(x_BCHW: Tensor) -> Tensor:
    """Channels-last, without a gap; the same tensor where it is so already."""
    return x_BCHW.contiguous(memory_format=torch.channels_last)
