"""Counting predictions and blends of predictions, as operations of PyTorch; see op.py.

Axes: see reference.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import gpu
from kernels.confusion import cpu, cpu_blend, launch, reference
from kernels.confusion.op import as_classes, no_counts


@torch.library.custom_op("roomsmith::confusion", mutates_args=())
def confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """`reference.confusion`, on the CPU or CUDA; fastest for uint8; raises as that does."""
    reference.check_confusion(prediction, label, classes)
    if not label.numel():
        return no_counts(label, classes)
    count = launch.count if gpu.uses_triton(label) else cpu.count
    return count(as_classes(prediction).flatten(), as_classes(label).flatten(), classes)


def blend_confusion(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    """`reference.blend_confusion` of finite probabilities, on the CPU or CUDA.

    Two models are read once for all candidates; on CUDA more models are read once for every eight
    of them, and what is not contiguous is copied. Negative weights cost more. Where two classes are
    within rounding of one another, either may have won.

    Raises:
        ValueError: as the reference.
    """
    reference.check_blend(prob_MBChw, weight_KM, label_BHW)
    count_KCC: Tensor = _blend_confusion(list(prob_MBChw), weight_KM, label_BHW)
    return count_KCC


@torch.library.custom_op("roomsmith::blend_confusion", mutates_args=())
def _blend_confusion(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    if not label_BHW.numel() or not len(weight_KM):
        return _no_blends(prob_MBChw, weight_KM, label_BHW)
    real = torch.promote_types(prob_MBChw[0].dtype, torch.float32)
    count_blends = launch.count_blends if gpu.uses_triton(label_BHW) else cpu_blend.count_blends
    return count_blends(prob_MBChw, weight_KM.detach().to(real), as_classes(label_BHW))


def _no_blends(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    return no_counts(label_BHW, prob_MBChw[0].shape[1], len(weight_KM))


_blend_confusion.register_fake(_no_blends)
confusion.register_fake(lambda _, label, classes: no_counts(label, classes))
