"""GroupNorm and ReLU, channels-last, with the upsampling or the sum that follows them."""

from kernels.group_norm_relu.op import group_norm_relu
from kernels.group_norm_relu.reference import GroupNorm

__all__ = ["GroupNorm", "group_norm_relu"]
