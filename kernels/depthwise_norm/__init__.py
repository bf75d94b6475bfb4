"""Depthwise 7 x 7 convolution and LayerNorm over channels, as ConvNeXt's block begins."""

from kernels.depthwise_norm.op import depthwise_norm, depthwise_norm_with_residual

__all__ = ["depthwise_norm", "depthwise_norm_with_residual"]
