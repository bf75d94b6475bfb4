"""Confusion counting: rows are the truth, columns the prediction.

A pixel counts if both its label and its prediction are classes, 0 .. C-1; the label 255 is none.

Axes: B batch, C class, H W pixels of the labels, h w pixels of the probabilities, K candidates,
M models, N pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_CLASSES = 255
"""A class is a uint8, and 255 is the label of ignored pixels."""


def confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """Count (truth, prediction) pairs.

    Args:
        prediction: integer tensor of any shape; values beyond 0 .. classes-1 do not count.
        label: integer tensor of the same shape; values beyond 0 .. classes-1 do not count, so
            255 = ignore.
        classes: number of classes C, 1 .. 255.

    Returns:
        (C, C) int64 on the device of the inputs; the host does not wait for it.

    Raises:
        ValueError: the shapes differ, or there are too many classes or none.
    """
    check_confusion(prediction, label, classes)
    beyond = classes * classes
    pair = label.to(torch.int64) * classes + prediction.to(torch.int64)
    counted = (label >= 0) & (label < classes) & (prediction >= 0) & (prediction < classes)
    pair = torch.where(counted, pair, beyond)
    count = torch.bincount(pair.flatten(), minlength=beyond + 1)
    return count[:beyond].reshape(classes, classes)


def resized_argmax(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    """The class of largest probability after bilinear resizing.

    Args:
        prob_BChw: (B, C, h, w), floating, any layout, C <= 255; need not be normalised.
        size_hw: height and width of the result, pixels.

    Returns:
        (B, *size_hw) uint8; the first of equal classes.

    Raises:
        ValueError: not four axes, no pixel to read, or too many classes.
    """
    check_prob(prob_BChw, size_hw)
    return _resized(prob_BChw, size_hw).argmax(dim=1).to(torch.uint8)


def probability_confusion(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """Confusion of the argmax of probabilities, resized bilinearly to the labels' size.

    Args:
        prob_BChw: (B, C, h, w), floating, any layout, C <= 255; need not be normalised.
        label_BHW: (B, H, W) uint8 or int64, 0 .. C-1 or 255 = ignore.

    Returns:
        (C, C) int64 on the device of the inputs; the host does not wait for it.

    Raises:
        ValueError: the shapes do not fit together.
    """
    check_prob_and_label(prob_BChw, label_BHW)
    return confusion(resized_argmax(prob_BChw, label_BHW.shape[1:]), label_BHW, prob_BChw.shape[1])


def blend_confusion(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    """Confusion of K blends of M models: the argmax over c of sum_m w_km p_mc.

    Each model's probabilities are resized bilinearly to the labels' size before they are blended.

    Args:
        prob_MBChw: M tensors (B, C, h, w), floating, any layout, C <= 255; of one dtype; h and w
            may differ from model to model.
        weight_KM: (K, M) floating; usually on the simplex, but any finite weights will do.
        label_BHW: (B, H, W) uint8 or int64, 0 .. C-1 or 255 = ignore.

    Returns:
        (K, C, C) int64 on the device of the inputs.

    Raises:
        ValueError: the shapes or dtypes do not fit together.
    """
    check_blend(prob_MBChw, weight_KM, label_BHW)
    resized = [_resized(prob, label_BHW.shape[1:]) for prob in prob_MBChw]
    weight_KM = weight_KM.to(resized[0].dtype)
    classes = prob_MBChw[0].shape[1]
    count_KCC = label_BHW.new_zeros((len(weight_KM), classes, classes), dtype=torch.int64)
    for k, weight_M in enumerate(weight_KM):
        weighted = [weight * prob for weight, prob in zip(weight_M, resized, strict=True)]
        blend_BCHW = torch.stack(weighted).sum(dim=0)
        count_KCC[k] = confusion(blend_BCHW.argmax(dim=1), label_BHW, classes)
    return count_KCC


def _resized(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    """(B, C, *size_hw) in at least float32."""
    prob_BChw = prob_BChw.to(torch.promote_types(prob_BChw.dtype, torch.float32))
    if tuple(prob_BChw.shape[2:]) == tuple(size_hw):
        return prob_BChw
    if 0 in size_hw:
        return prob_BChw.new_empty((*prob_BChw.shape[:2], *size_hw))
    return F.interpolate(prob_BChw, size=tuple(size_hw), mode="bilinear", align_corners=False)


def check_confusion(prediction: Tensor, label: Tensor, classes: int) -> None:
    """Raise the ValueErrors of `confusion`."""
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} must agree"
        )
    _check_classes(classes)


def check_prob(prob_BChw: Tensor, size_hw: Sequence[int]) -> None:
    """Raise the ValueErrors of `resized_argmax`."""
    if prob_BChw.ndim != 4 or 0 in prob_BChw.shape[1:] or not prob_BChw.is_floating_point():
        raise ValueError(
            "probabilities must be floating and (B, C, h, w) with a class and a pixel to read, got "
            f"{prob_BChw.dtype} {tuple(prob_BChw.shape)}"
        )
    if len(size_hw) != 2:
        raise ValueError(f"a size is (height, width), got {tuple(size_hw)}")
    _check_classes(prob_BChw.shape[1])


def check_prob_and_label(prob_BChw: Tensor, label_BHW: Tensor) -> None:
    """Raise the ValueErrors of `probability_confusion`."""
    check_prob(prob_BChw, label_BHW.shape[1:])
    if len(prob_BChw) != len(label_BHW):
        raise ValueError(
            f"probabilities {tuple(prob_BChw.shape)} and label {tuple(label_BHW.shape)} "
            "must be of equally many images"
        )


def check_blend(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> None:
    """Raise the ValueErrors of `blend_confusion`."""
    for prob_BChw in prob_MBChw:
        check_prob_and_label(prob_BChw, label_BHW)
    kinds = {(prob_BChw.dtype, prob_BChw.shape[1]) for prob_BChw in prob_MBChw}
    if len(kinds) != 1:
        raise ValueError(f"models must agree in dtype and classes, got {sorted(map(str, kinds))}")
    if weight_KM.ndim != 2 or weight_KM.shape[1] != len(prob_MBChw):
        raise ValueError(f"weights must be (K, M={len(prob_MBChw)}), got {tuple(weight_KM.shape)}")


def _check_classes(classes: int) -> None:
    if not 1 <= classes <= MOST_CLASSES:
        raise ValueError(f"there must be 1 to {MOST_CLASSES} classes, got {classes}")
