"""Confusion counting as operations of PyTorch: Numba on the CPU, Triton on CUDA.

Axes: B batch, C class, H W pixels of the labels, h w pixels of the probabilities, K candidates,
M models, N pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.confusion import launch
from kernels.confusion.launch import specialisations
from kernels.confusion.reference import (
    check_blend,
    check_confusion,
    check_confusion_many,
    check_prob,
    check_prob_and_label,
)
from kernels.threads import cpu_threads

__all__ = [
    "blend_confusion",
    "confusion",
    "confusion_many",
    "probability_confusion",
    "resized_argmax",
    "specialisations",
    "uses_triton",
]


def confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """Count (truth, prediction) pairs: rows are the truth, columns the prediction.

    Args:
        prediction: integer tensor of any shape on the CPU or CUDA, uint8 for speed; values beyond
            0 .. classes-1 do not count.
        label: integer tensor of the same shape and device; values beyond 0 .. classes-1 do not
            count, so 255 = ignore.
        classes: number of classes C, 1 .. 255.

    Returns:
        (C, C) int64 on the device of the inputs; the host does not wait for it.

    Raises:
        ValueError: the shapes differ, or there are too many classes or none.
    """
    check_confusion(prediction, label, classes)
    count_1CC: Tensor = _confusion(prediction[None], label, classes)
    return count_1CC[0]


def confusion_many(prediction_KN: Tensor, label_N: Tensor, classes: int) -> Tensor:
    """`confusion` of K candidate predictions of the same pixels.

    Args:
        prediction_KN: (K, ...) integer; each candidate has the shape of the labels.
        label_N: integer labels, as in `confusion`.
        classes: number of classes C, 1 .. 255.

    Returns:
        (K, C, C) int64 on the device of the inputs; the host does not wait for it.

    Raises:
        ValueError: a candidate and the labels differ in shape, or there are too many classes.
    """
    check_confusion_many(prediction_KN, label_N, classes)
    count_KCC: Tensor = _confusion(prediction_KN, label_N, classes)
    return count_KCC


def resized_argmax(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    """The class of largest probability after bilinear resizing.

    Args:
        prob_BChw: (B, C, h, w), floating, any layout, on the CPU or CUDA, C <= 255; finite; need
            not be normalised.
        size_hw: height and width of the result, pixels.

    Returns:
        (B, *size_hw) uint8; the first of equal classes.

    Raises:
        ValueError: not four axes, no pixel to read, or too many classes.
    """
    check_prob(prob_BChw, size_hw)
    winner_BHW: Tensor = _argmax(prob_BChw, list(size_hw))
    return winner_BHW


def probability_confusion(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """Confusion of the argmax of probabilities, resized bilinearly to the labels' size.

    Neither the resized probabilities nor their argmax is stored.

    Args:
        prob_BChw: (B, C, h, w), floating, any layout, on the CPU or CUDA, C <= 255; finite; need
            not be normalised.
        label_BHW: (B, H, W) uint8 or int64, 0 .. C-1 or 255 = ignore.

    Returns:
        (C, C) int64 on the device of the inputs; the host does not wait for it.

    Raises:
        ValueError: the shapes do not fit together.
    """
    check_prob_and_label(prob_BChw, label_BHW)
    count_CC: Tensor = _argmax_confusion(prob_BChw, label_BHW)
    return count_CC


def blend_confusion(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    """Confusion of K blends of M models: the argmax over c of sum_m w_km p_mc.

    Each model's probabilities are resized bilinearly to the labels' size, read once for all
    candidates. On CUDA they are first copied into one tensor.

    Args:
        prob_MBChw: M tensors (B, C, h, w), floating, any layout, on the CPU or CUDA, C <= 255; of
            one dtype; finite; h and w may differ from model to model.
        weight_KM: (K, M) floating; usually on the simplex, but any finite weights will do, at more
            cost if some are negative.
        label_BHW: (B, H, W) uint8 or int64, 0 .. C-1 or 255 = ignore.

    Returns:
        (K, C, C) int64 on the device of the inputs; the host does not wait for it. Where two
        classes are within rounding of one another, either may have won.

    Raises:
        ValueError: the shapes or dtypes do not fit together.
    """
    check_blend(prob_MBChw, weight_KM, label_BHW)
    count_KCC: Tensor = _blend_confusion(list(prob_MBChw), weight_KM, label_BHW)
    return count_KCC


def uses_triton(tensor: Tensor) -> bool:
    """Triton runs what is on a GPU, Numba the rest."""
    return tensor.is_cuda


@torch.library.custom_op("roomsmith::confusion", mutates_args=())
def _confusion(prediction_KN: Tensor, label_N: Tensor, classes: int) -> Tensor:
    if not prediction_KN.numel():
        return _no_counts(label_N, classes, len(prediction_KN))
    prediction_KN = _as_classes(prediction_KN).reshape(len(prediction_KN), -1)
    label_N = _as_classes(label_N).reshape(-1)
    if uses_triton(label_N):
        return launch.count(prediction_KN, label_N, classes)
    from kernels.confusion import cpu

    with cpu_threads(torch.get_num_threads()):
        return torch.from_numpy(cpu.count(prediction_KN.numpy(), label_N.numpy(), classes))


@torch.library.custom_op("roomsmith::resized_argmax", mutates_args=())
def _argmax(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    winner_BHW = prob_BChw.new_empty((len(prob_BChw), *size_hw), dtype=torch.uint8)
    if not winner_BHW.numel():
        return winner_BHW
    if uses_triton(prob_BChw):
        launch.argmax(prob_BChw, winner_BHW)
    else:
        from kernels.confusion import cpu

        with cpu_threads(torch.get_num_threads()):
            cpu.argmax(*_in_numpy(prob_BChw), winner_BHW.numpy())
    return winner_BHW


@torch.library.custom_op("roomsmith::probability_confusion", mutates_args=())
def _argmax_confusion(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    if not label_BHW.numel():
        return _no_counts(label_BHW, prob_BChw.shape[1])
    label_BHW = _as_classes(label_BHW)
    if uses_triton(prob_BChw):
        return launch.count_argmax(prob_BChw, label_BHW)
    from kernels.confusion import cpu

    with cpu_threads(torch.get_num_threads()):
        return torch.from_numpy(cpu.count_argmax(*_in_numpy(prob_BChw), label_BHW.numpy()))


@torch.library.custom_op("roomsmith::blend_confusion", mutates_args=())
def _blend_confusion(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    classes = prob_MBChw[0].shape[1]
    count_KCC = _no_counts(label_BHW, classes, len(weight_KM))
    if not label_BHW.numel() or not len(weight_KM):
        return count_KCC
    label_BHW = _as_classes(label_BHW)
    weight_KM = weight_KM.detach().to(_real(prob_MBChw[0]))
    if uses_triton(label_BHW):
        return launch.count_blends(prob_MBChw, weight_KM, label_BHW)
    from kernels.confusion import cpu_blend

    hw_M = [(prob_BChw.shape[2], prob_BChw.shape[3]) for prob_BChw in prob_MBChw]
    for label_HW, *prob_MChw in zip(label_BHW, *prob_MBChw, strict=True):
        prob = torch.cat(
            [prob_Chw.detach().to(weight_KM.dtype).flatten() for prob_Chw in prob_MChw]
        )
        with cpu_threads(torch.get_num_threads()):
            count_KCC += torch.from_numpy(
                cpu_blend.count_blends(
                    prob.numpy(), hw_M, weight_KM.numpy(), label_HW.numpy(), classes
                )
            )
    return count_KCC


@_confusion.register_fake
def _(prediction_KN: Tensor, label_N: Tensor, classes: int) -> Tensor:
    return _no_counts(label_N, classes, prediction_KN.shape[0])


@_argmax.register_fake
def _(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    return prob_BChw.new_empty((prob_BChw.shape[0], *size_hw), dtype=torch.uint8)


@_argmax_confusion.register_fake
def _(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    return _no_counts(label_BHW, prob_BChw.shape[1])


@_blend_confusion.register_fake
def _(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    return _no_counts(label_BHW, prob_MBChw[0].shape[1], weight_KM.shape[0])


def _no_counts(label: Tensor, classes: int, *candidates: int) -> Tensor:
    return label.new_zeros((*candidates, classes, classes), dtype=torch.int64)


def _as_classes(tensor: Tensor) -> Tensor:
    """Contiguous uint8; what does not fit becomes 255, which is no class."""
    if tensor.dtype != torch.uint8:
        tensor = tensor.to(torch.int64).clamp(-1, 255).to(torch.uint8)
    return tensor.contiguous()


def _real(prob: Tensor) -> torch.dtype:
    return torch.promote_types(prob.dtype, torch.float32)


def _in_numpy(
    prob_BChw: Tensor,
) -> tuple[NDArray[Any], tuple[int, ...], int, tuple[int, int]]:
    """The elements in the order of memory, their strides, the number of classes, (h, w)."""
    prob_BChw = prob_BChw.detach().to(_real(prob_BChw))
    _, classes, h, w = prob_BChw.shape
    strides = prob_BChw.stride()
    last = sum((n - 1) * step for n, step in zip(prob_BChw.shape, strides, strict=True))
    return prob_BChw.as_strided((last + 1,), (1,)).numpy(), strides, classes, (h, w)
