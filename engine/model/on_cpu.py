"""Layers of a network that a CPU trains faster in kernels of ours: the same bytes, in less time.

Put in from outside, as `engine.model.fused` does: only the class of a module changes.

Shapes: B batch, C channels, h w cells.
"""

import math
from typing import NamedTuple

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import pad_same
from torch import Tensor, nn

from engine.model.fpn import AnyGroupNorm
from kernels.batch_norm import BatchNorm, batch_norm_clamp
from kernels.depthwise import depthwise_conv
from kernels.group_norm import group_norm

BOUNDS = {nn.ReLU: (0.0, math.inf), nn.ReLU6: (0.0, 6.0), nn.Identity: (-math.inf, math.inf)}
"""Where an activation cuts off."""

TAKEN = (torch.float32, torch.bfloat16)
"""Dtypes that our batch norm takes."""


class OnCpu(NamedTuple):
    """What `use_kernels` changed."""

    norms: int
    """batch norms, in one pass with their activation"""
    convolutions: int
    """depthwise, whose gradients are ours where PyTorch's are slow"""
    group_norms: int
    """a decoder's, whose gradients are ours"""


def use_kernels(network: nn.Module) -> OnCpu:
    """Let layers that our kernels know train in them.

    These are batch norms with ReLU, ReLU6 or nothing, depthwise convolutions and group norms.

    In place, for networks on a CPU that are run as they are; parameters and state-dict keys are
    untouched. In evaluation, and on inputs that the kernels do not take, they are PyTorch's.
    """
    norms = convolutions = group_norms = 0
    for module in network.modules():
        if type(module) is BatchNormAct2d and _is_usual(module):
            module.__class__, norms = BatchNormClamp, norms + 1
        elif isinstance(module, nn.Conv2d) and _is_depthwise(module):
            same = type(module) is Conv2dSame
            module.__class__ = _DepthwiseSame if same else _Depthwise
            convolutions += 1
        elif type(module) in (nn.GroupNorm, AnyGroupNorm) and module.affine:
            module.__class__, group_norms = _GroupNorm, group_norms + 1
    return OnCpu(norms, convolutions, group_norms)


class BatchNormClamp(BatchNormAct2d):
    """timm's, in training in one pass with its activation."""

    def forward(self, x: Tensor) -> Tensor:
        """As timm's."""
        if not self.training or x.dtype not in TAKEN:
            evaluated: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return evaluated
        mean_C, variance_C, batches = self.running_mean, self.running_var, self.num_batches_tracked
        assert mean_C is not None  # or it were no usual one,
        assert variance_C is not None  # likewise,
        assert batches is not None  # likewise,
        assert self.momentum is not None  # likewise
        batches.add_(1)
        running = mean_C, variance_C, self.momentum, self.eps
        norm = BatchNorm(self.weight, self.bias, *running)
        return batch_norm_clamp(x, norm, *BOUNDS[type(self.act)])


class _GroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name for it
        return group_norm(input, self.weight, self.bias, self.num_groups, self.eps)


class _Depthwise(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return _convolve(self, x, self.padding[0])


class _DepthwiseSame(Conv2dSame):
    def forward(self, x: Tensor) -> Tensor:
        side, stride, dilation = map(list, (self.kernel_size, self.stride, self.dilation))
        return _convolve(self, pad_same(x, side, stride, dilation), 0)


def _convolve(conv: nn.Conv2d, x: Tensor, pad: int | str) -> Tensor:
    assert isinstance(pad, int)  # or it had kept its class
    if torch.is_autocast_enabled(x.device.type):
        low = torch.get_autocast_dtype(x.device.type)
        bias = None if conv.bias is None else conv.bias.to(low)
        return depthwise_conv(x.to(low), conv.weight.to(low), bias, conv.stride[0], pad)
    return depthwise_conv(x, conv.weight, conv.bias, conv.stride[0], pad)


def _is_usual(norm: BatchNormAct2d) -> bool:
    """Whether it has all that a norm may have, and an activation that is known here."""
    whole = norm.affine and norm.track_running_stats and norm.momentum is not None
    return whole and type(norm.drop) is nn.Identity and type(norm.act) in BOUNDS


def _is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether it is a square one, of PyTorch or timm, that pads with zeros and skips none."""
    sides = conv.kernel_size, conv.stride, conv.padding
    if type(conv) not in (nn.Conv2d, Conv2dSame) or isinstance(conv.padding, str):
        return False
    plain = conv.padding_mode == "zeros" and conv.dilation == (1, 1)
    square = all(len(set(each)) == 1 for each in sides)
    return plain and square and conv.groups == conv.in_channels == conv.out_channels > 1
