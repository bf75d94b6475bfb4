"""A depthwise convolution as an operation of PyTorch, its gradients by Numba on the CPU.

Axes: as in reference.py.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.depthwise import cpu, reference
from kernels.vectors import LANES

LEAST_SIDE = 5
"""Of the taps that oneDNN has no depthwise kernel for."""


def depthwise_conv(
    x_BCHW: Tensor, weight_C1KK: Tensor, bias_C: Tensor | None, stride: int, pad: int
) -> Tensor:
    """`reference.depthwise_conv`, with the same bytes; gradients are ours where they were slow.

    Differentiable once, and not to be traced. The reference is run away from the CPU, on what is
    neither float32 nor bfloat16, and where it is fast: on 3 x 3 taps, in float32 or of stride 1. In
    bfloat16 both gradients are summed in float32 and then rounded.
    """
    C, side, low = x_BCHW.shape[1], weight_C1KK.shape[-1], x_BCHW.dtype == torch.bfloat16
    ours = x_BCHW.device.type == "cpu" and (low or x_BCHW.dtype == torch.float32) and C >= LANES
    slow = side >= LEAST_SIDE or (low and stride > 1)
    if not (ours and slow and torch.is_grad_enabled()):
        return reference.depthwise_conv(x_BCHW, weight_C1KK, bias_C, stride, pad)
    y_BCYX: Tensor = _DepthwiseConv.apply(x_BCHW, weight_C1KK, bias_C, stride, pad)
    return y_BCYX


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C1KK: Tensor, bias_C: Tensor | None, stride: int, pad: int
    ) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_C1KK)
        ctx.geometry = stride, pad
        return reference.depthwise_conv(x_BCHW, weight_C1KK, bias_C, stride, pad)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BCYX: Tensor) -> tuple[Tensor | None, ...]:
        (x_BCHW, weight_C1KK), (stride, pad) = ctx.saved_tensors, ctx.geometry
        C, side = x_BCHW.shape[1], weight_C1KK.shape[-1]
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        low, last = x_BCHW.dtype, torch.channels_last
        # oneDNN has no kernel for strides in bfloat16, but one in float32, 2 to 20 times as fast;
        # and none at all without AVX-512, where PyTorch's own sums in bfloat16.
        strided = low == torch.bfloat16 and stride > 1
        narrow = not strided and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        ours_of_x = of_x and strided
        ours_of_weight = of_weight and (side >= LEAST_SIDE or (strided and side == 3 and pad == 0))
        found: list[Tensor | None] = [None] * 3
        asked = [of_x and not ours_of_x, of_weight and not ours_of_weight, of_bias]
        if any(asked):
            geometry = [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], C
            given = grad_BCYX, x_BCHW, weight_C1KK
            wide = given if narrow else [each.to(torch.float32) for each in given]
            found = list(torch.ops.aten.convolution_backward(*wide, [C], *geometry, asked))
        grad_BCYX = grad_BCYX.contiguous(memory_format=last)
        if ours_of_x:
            hw = x_BCHW.shape[2], x_BCHW.shape[3]
            found[0] = cpu.input_gradient(grad_BCYX, weight_C1KK, hw, stride, pad)
        if ours_of_weight:
            x_BCHW = x_BCHW.contiguous(memory_format=last)
            found[1] = cpu.weight_gradient(x_BCHW, grad_BCYX, side, stride, pad)
        return *(None if each is None else each.to(low) for each in found), None, None
