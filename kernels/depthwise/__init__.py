"""A depthwise convolution whose weights' gradient is fast on a CPU."""

from kernels.depthwise.op import depthwise_conv

__all__ = ["depthwise_conv"]
