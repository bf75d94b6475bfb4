"""A depthwise convolution whose gradients are fast on a CPU."""

from kernels.depthwise.op import depthwise_conv

__all__ = ["depthwise_conv"]
