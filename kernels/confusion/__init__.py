"""Confusion matrices."""

from kernels.confusion.op import blend_confusion, confusion, probability_confusion, resized_argmax

__all__ = ["blend_confusion", "confusion", "probability_confusion", "resized_argmax"]
