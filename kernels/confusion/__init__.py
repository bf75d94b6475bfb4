"""Confusion matrices."""

from kernels.confusion.op import probability_confusion, resized_argmax
from kernels.confusion.op_counts import blend_confusion, confusion

__all__ = ["blend_confusion", "confusion", "probability_confusion", "resized_argmax"]
