"""Weights times a scale as an operation of PyTorch: Triton on the GPU, PyTorch's own on the CPU.

Axes: C outputs, D inputs of the layer.
"""

from typing import Any

import torch
from torch import Tensor

from kernels import gpu
from kernels.scaled_weight import launch, reference


def scaled_weight(
    weight_CD: Tensor, bias_C: Tensor, gamma_C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`reference.scaled_weight`, on a GPU in one pass each way: the scale costs none of its own.

    From float32 to bfloat16 it moves 6 bytes a weight, as the cast alone does, and backward 10,
    where the cast alone moves 6. The backward pass keeps the parameters and nothing else, has no
    second derivative, and gives the same bytes every time. Raises as the reference does; on a GPU
    parameters that are neither float32 nor float64 are a ValueError too.
    """
    if not gpu.uses_triton(weight_CD):
        return reference.scaled_weight(weight_CD, bias_C, gamma_C, dtype)
    reference.check(weight_CD, bias_C, gamma_C, dtype)
    if weight_CD.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"parameters must be float32 or float64, got {weight_CD.dtype}")
    given = (tensor.contiguous() for tensor in (weight_CD, bias_C, gamma_C))
    made: tuple[Tensor, Tensor] = _forward(*given, dtype)
    return made


@torch.library.custom_op("roomsmith::scaled_weight", mutates_args=())
def _forward(
    weight_CD: Tensor, bias_C: Tensor, gamma_C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return launch.forward(weight_CD, bias_C, gamma_C, dtype)


@_forward.register_fake
def _forward_shapes(
    weight_CD: Tensor, bias_C: Tensor, _: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight_CD, dtype=dtype), torch.empty_like(bias_C, dtype=dtype)


@torch.library.custom_op("roomsmith::scaled_weight_backward", mutates_args=())
def _gradients(
    grad_low_CD: Tensor, grad_bias_low_C: Tensor, weight_CD: Tensor, bias_C: Tensor, gamma_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the weights, the bias and the scale, in their dtype."""
    return launch.backward(grad_low_CD, grad_bias_low_C, weight_CD, bias_C, gamma_C)


@_gradients.register_fake
def _gradient_shapes(_: Tensor, __: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor) for tensor in parameters)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    del output
    ctx.save_for_backward(*inputs[:3])


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    packed = (grad.contiguous() for grad in grads)
    return (*_gradients(*packed, *ctx.saved_tensors), None)


_forward.register_autograd(_backward, setup_context=_keep)
