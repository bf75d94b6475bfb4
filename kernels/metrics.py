"""Figures read off a confusion matrix (rows = truth, columns = prediction)."""

import numpy as np
from numpy.typing import NDArray


def class_iou(confusion_CC: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C,) intersection over union; NaN for a class in neither truth nor prediction."""
    hit_C = np.diagonal(confusion_CC).astype(np.float64)
    union_C = confusion_CC.sum(axis=0) + confusion_CC.sum(axis=1) - hit_C
    iou_C = np.full(len(hit_C), np.nan)
    np.divide(hit_C, union_C, out=iou_C, where=union_C > 0)
    return iou_C


def mean_iou(confusion_CC: NDArray[np.int64]) -> float:
    """Mean IoU over the classes that occur in truth or prediction; 0 if none does."""
    iou_C = class_iou(confusion_CC)
    present_C = ~np.isnan(iou_C)
    return float(iou_C[present_C].mean()) if present_C.any() else 0.0


def pixel_accuracy(confusion_CC: NDArray[np.int64]) -> float:
    """Share of counted pixels whose class is right; 0 if no pixel is counted."""
    total = int(confusion_CC.sum())
    return float(np.trace(confusion_CC)) / total if total else 0.0
