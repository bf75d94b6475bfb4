"""A linear layer in low precision whose float32 weights get a float32 gradient from the product.

PyTorch makes the gradient in the product's dtype and casts it up: the product writes 2 bytes a
weight, the cast reads them and writes 4. A GPU's product sums in float32 in any case, and can write
its sums as they are: 4 bytes a weight instead of 8, and no rounding.

Axes: as in reference.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import gpu
from kernels.linear import reference

_LOW = (torch.bfloat16, torch.float16)
"""What `torch.mm` can be given where it is to write float32."""


def linear(x_NC: Tensor, weight_DC: Tensor, bias_D: Tensor, dtype: torch.dtype) -> Tensor:
    """`reference.linear`; on a GPU, in low precision, float32 gradients of weights and bias.

    They are rounded once less than the reference's. Everything else, also off the GPU or in another
    dtype, is the reference to the byte. The backward pass keeps the input and the weights, both in
    `dtype`, and has no second derivative. Does not wait for the device.
    """
    low = dtype in _LOW and weight_DC.dtype == torch.float32
    if not (low and gpu.uses_triton(x_NC)):
        return reference.linear(x_NC, weight_DC, bias_D, dtype)
    y_NC: Tensor = _Linear.apply(x_NC.to(dtype), weight_DC, bias_D)
    return y_NC


class _Linear(torch.autograd.Function):
    """Not an operation as a whole, so that `torch.compile` sees the product as any other."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_DC: Tensor, bias_D: Tensor) -> Tensor:
        low_DC = weight_DC.to(x_NC.dtype)
        ctx.save_for_backward(x_NC, low_DC)
        return F.linear(x_NC, low_DC, bias_D.to(x_NC.dtype))

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_NC, low_DC = ctx.saved_tensors
        grad_x_NC = grad_ND @ low_DC if ctx.needs_input_grad[0] else None
        grad_ND = grad_ND.reshape(-1, grad_ND.shape[-1])
        grad_DC = _weight_gradient(grad_ND, x_NC.reshape(-1, x_NC.shape[-1]))
        return grad_x_NC, grad_DC, grad_ND.sum(0, dtype=torch.float32)


@torch.library.custom_op("roomsmith::weight_gradient", mutates_args=())
def _weight_gradient(grad_ND: Tensor, x_NC: Tensor) -> Tensor:
    """(D, C) float32; an operation because only GPUs have PyTorch's product in two dtypes."""
    if grad_ND.is_cuda:
        return torch.mm(grad_ND.t(), x_NC, out_dtype=torch.float32)
    return grad_ND.t().float() @ x_NC.float()


@_weight_gradient.register_fake
def _gradient_shape(grad_ND: Tensor, x_NC: Tensor) -> Tensor:
    return grad_ND.new_empty((grad_ND.shape[1], x_NC.shape[1]), dtype=torch.float32)
