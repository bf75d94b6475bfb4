"""Winners of probabilities as operations of PyTorch: Numba on the CPU, Triton on CUDA.

Axes: see reference.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import gpu
from kernels.confusion import cpu, launch, reference


@torch.library.custom_op("roomsmith::resized_argmax", mutates_args=())
def resized_argmax(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    """`reference.resized_argmax` of finite probabilities; raises as that does."""
    reference.check_prob(prob_BChw, size_hw)
    winner_BHW = _new_winners(prob_BChw, size_hw)
    if winner_BHW.numel():
        argmax = launch.argmax if gpu.uses_triton(prob_BChw) else cpu.argmax
        argmax(prob_BChw, winner_BHW)
    return winner_BHW


@torch.library.custom_op("roomsmith::probability_confusion", mutates_args=())
def probability_confusion(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """`reference.probability_confusion` of finite probabilities; raises as that does.

    The resized probabilities are not stored; their argmax is, a byte a pixel.
    """
    reference.check_prob_and_label(prob_BChw, label_BHW)
    if not label_BHW.numel():
        return no_counts(label_BHW, prob_BChw.shape[1])
    count_argmax = launch.count_argmax if gpu.uses_triton(prob_BChw) else cpu.count_argmax
    return count_argmax(prob_BChw, as_classes(label_BHW))


def as_classes(tensor: Tensor) -> Tensor:
    """Contiguous uint8; what does not fit becomes 255, which is no class."""
    if tensor.dtype != torch.uint8:
        tensor = tensor.to(torch.int64).clamp(-1, 255).to(torch.uint8)
    return tensor.contiguous()


def no_counts(label: Tensor, classes: int, *candidates: int) -> Tensor:
    """(*candidates, C, C) int64 zeros where the label is."""
    return label.new_zeros((*candidates, classes, classes), dtype=torch.int64)


def _new_winners(prob_BChw: Tensor, size_hw: Sequence[int]) -> Tensor:
    return prob_BChw.new_empty((prob_BChw.shape[0], *size_hw), dtype=torch.uint8)


resized_argmax.register_fake(_new_winners)
probability_confusion.register_fake(lambda prob, label: no_counts(label, prob.shape[1]))
