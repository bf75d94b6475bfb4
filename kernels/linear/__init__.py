"""A linear layer in low precision whose weights' gradient comes in their own."""

from kernels.linear.op import linear

__all__ = ["linear"]
