"""A linear layer's weights times a scale of each output, in the dtype of its matrix product."""

from kernels.scaled_weight.op import scaled_weight

__all__ = ["scaled_weight"]
