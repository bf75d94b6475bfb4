"""Confusion counting: rows are the truth, columns the prediction.

Axes: B batch, C class, H W pixels of the labels, h w pixels of the probabilities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = 255


def confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """Count (truth, prediction) pairs over the pixels whose label is not 255.

    Args:
        prediction: integer tensor of any shape, values 0 .. classes-1.
        label: integer tensor of the same shape, values 0 .. classes-1 or 255 = ignore.
        classes: number of classes C.

    Returns:
        (C, C) int64 on the device of the inputs.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} must agree"
        )
    ignored = classes * classes
    pair = label.to(torch.int64) * classes + prediction.to(torch.int64)
    pair = torch.where(label == IGNORE_INDEX, ignored, pair)
    count = torch.bincount(pair.flatten(), minlength=ignored + 1)
    return count[:ignored].reshape(classes, classes)


def probability_confusion(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """Confusion of the argmax of probabilities, resized bilinearly to the labels' size.

    Args:
        prob_BChw: (B, C, h, w), floating; need not be normalised.
        label_BHW: (B, H, W) uint8 or int64, 255 = ignore.

    Returns:
        (C, C) int64.
    """
    return confusion(resized_argmax(prob_BChw, label_BHW.shape[1:]), label_BHW, prob_BChw.shape[1])


def resized_argmax(prob_BChw: Tensor, size_hw: tuple[int, int] | torch.Size) -> Tensor:
    """(B, H, W) int64 class of largest probability after bilinear resizing to `size_hw`."""
    if tuple(prob_BChw.shape[2:]) != tuple(size_hw):
        prob_BChw = F.interpolate(
            prob_BChw, size=tuple(size_hw), mode="bilinear", align_corners=False
        )
    return prob_BChw.argmax(dim=1)
