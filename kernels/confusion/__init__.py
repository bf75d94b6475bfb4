"""Confusion matrices and the figures that are read off them."""

from kernels.confusion.metrics import class_iou, mean_iou, pixel_accuracy
from kernels.confusion.op import (
    blend_confusion,
    confusion,
    confusion_many,
    probability_confusion,
    resized_argmax,
)

__all__ = [
    "blend_confusion",
    "class_iou",
    "confusion",
    "confusion_many",
    "mean_iou",
    "pixel_accuracy",
    "probability_confusion",
    "resized_argmax",
]
