"""Confusion matrices and the figures that are read off them."""

from kernels.confusion.metrics import class_iou, mean_iou, pixel_accuracy
from kernels.confusion.reference import confusion, probability_confusion

__all__ = ["class_iou", "confusion", "mean_iou", "pixel_accuracy", "probability_confusion"]
