"""Confusion counting as operations of PyTorch: Numba on the CPU, Triton on CUDA.

Axes: see reference.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.confusion import cpu, cpu_blend, launch, reference
from kernels.gpu import uses_triton


def confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """`reference.confusion`, on the CPU or CUDA; fastest for uint8.

    Raises:
        ValueError: as the reference.
    """
    reference.check_confusion(prediction, label, classes)
    count_CC: Tensor = _confusion(prediction, label, classes)
    return count_CC


def resized_argmax(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    """`reference.resized_argmax` of finite probabilities, on the CPU or CUDA.

    Raises:
        ValueError: as the reference.
    """
    reference.check_prob(prob_BChw, size_hw)
    winner_BHW: Tensor = _argmax(prob_BChw, list(size_hw))
    return winner_BHW


def probability_confusion(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """`reference.probability_confusion` of finite probabilities, on the CPU or CUDA.

    The resized probabilities are not stored; on the CPU their argmax is, a byte a pixel.

    Raises:
        ValueError: as the reference.
    """
    reference.check_prob_and_label(prob_BChw, label_BHW)
    count_CC: Tensor = _argmax_confusion(prob_BChw, label_BHW)
    return count_CC


def blend_confusion(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    """`reference.blend_confusion` of finite probabilities, on the CPU or CUDA.

    They are read once for all candidates; on CUDA they are first copied into one tensor. Negative
    weights cost more. Where two classes are within rounding of one another, either may have won.

    Raises:
        ValueError: as the reference.
    """
    reference.check_blend(prob_MBChw, weight_KM, label_BHW)
    count_KCC: Tensor = _blend_confusion(list(prob_MBChw), weight_KM, label_BHW)
    return count_KCC


@torch.library.custom_op("roomsmith::confusion", mutates_args=())
def _confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    if not label.numel():
        return _no_counts(label, classes)
    count = launch.count if uses_triton(label) else cpu.count
    return count(_as_classes(prediction).flatten(), _as_classes(label).flatten(), classes)


@torch.library.custom_op("roomsmith::resized_argmax", mutates_args=())
def _argmax(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    winner_BHW = _new_winners(prob_BChw, size_hw)
    if winner_BHW.numel():
        argmax = launch.argmax if uses_triton(prob_BChw) else cpu.argmax
        argmax(prob_BChw, winner_BHW)
    return winner_BHW


@torch.library.custom_op("roomsmith::probability_confusion", mutates_args=())
def _argmax_confusion(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    if not label_BHW.numel():
        return _no_counts(label_BHW, prob_BChw.shape[1])
    count_argmax = launch.count_argmax if uses_triton(prob_BChw) else cpu.count_argmax
    return count_argmax(prob_BChw, _as_classes(label_BHW))


@torch.library.custom_op("roomsmith::blend_confusion", mutates_args=())
def _blend_confusion(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    if not label_BHW.numel() or not len(weight_KM):
        return _no_blends(prob_MBChw, weight_KM, label_BHW)
    real = torch.promote_types(prob_MBChw[0].dtype, torch.float32)
    count_blends = launch.count_blends if uses_triton(label_BHW) else cpu_blend.count_blends
    return count_blends(prob_MBChw, weight_KM.detach().to(real), _as_classes(label_BHW))


def _no_blends(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    return _no_counts(label_BHW, prob_MBChw[0].shape[1], weight_KM.shape[0])


def _new_winners(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    return prob_BChw.new_empty((prob_BChw.shape[0], *size_hw), dtype=torch.uint8)


def _no_counts(label: Tensor, classes: int, *candidates: int) -> Tensor:
    return label.new_zeros((*candidates, classes, classes), dtype=torch.int64)


def _as_classes(tensor: Tensor) -> Tensor:
    """Contiguous uint8; what does not fit becomes 255, which is no class."""
    if tensor.dtype != torch.uint8:
        tensor = tensor.to(torch.int64).clamp(-1, 255).to(torch.uint8)
    return tensor.contiguous()


_confusion.register_fake(lambda _, label, classes: _no_counts(label, classes))
_argmax.register_fake(_new_winners)
_argmax_confusion.register_fake(lambda prob, label: _no_counts(label, prob.shape[1]))
_blend_confusion.register_fake(_no_blends)
