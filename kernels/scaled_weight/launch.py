"""How the Triton kernels of this folder are launched: blocks and grids.

Axes: as in triton.py.
"""

import torch
from torch import Tensor

from kernels.gpu import power_of_two

LAUNCH = {"num_warps": 4}
BLOCK = 512
"""Weights in a part of a row: four a thread, 128 bits of them. With eight, the gradient's
128 bits would be another thread's weights, and go through shared memory."""


def forward(
    weight_CD: Tensor, bias_C: Tensor, gamma_C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The scaled weights and bias, in `dtype`, of packed tensors."""
    from kernels.scaled_weight.triton import scale_rows

    C, D = weight_CD.shape
    made = torch.empty_like(weight_CD, dtype=dtype), torch.empty_like(bias_C, dtype=dtype)
    scale_rows[C,](weight_CD, bias_C, gamma_C, *made, **constants(D), **LAUNCH)
    return made


def backward(
    grad_low_CD: Tensor, grad_bias_low_C: Tensor, weight_CD: Tensor, bias_C: Tensor, gamma_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of W, b and gamma, from those of what `forward` made; all are packed."""
    from kernels.scaled_weight.triton import scale_rows_backward

    C, D = weight_CD.shape
    given = (weight_CD, bias_C, gamma_C)
    made = torch.empty_like(weight_CD), torch.empty_like(bias_C), torch.empty_like(gamma_C)
    arrays = (grad_low_CD, grad_bias_low_C, *given, *made)
    scale_rows_backward[C,](*arrays, **constants(D), **LAUNCH)
    return made


def constants(inputs: int) -> dict[str, int]:
    """Of both kernels."""
    return {"D": inputs, "BLOCK": min(power_of_two(inputs), BLOCK)}
