"""Batch normalisation in training with the activation after it, in fewer passes on a CPU."""

from kernels.batch_norm.op import batch_norm_clamp
from kernels.batch_norm.reference import BatchNorm

__all__ = ["BatchNorm", "batch_norm_clamp"]
