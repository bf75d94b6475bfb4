"""Which implementation of the fused operations the engine calls."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernels.crop_resize import Crops

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Operations:
    """The functions of `kernels` under their own names, all fused or all references."""

    boundary_ce: Callable[..., Tensor]
    tta_accumulate: Callable[..., None]
    resized_argmax: Callable[..., Tensor]
    probability_confusion: Callable[..., Tensor]
    crop_resize: Callable[..., Crops]


def choose_operations(kind: Literal["fused", "reference"], device: torch.device) -> Operations:
    """The operations of that kind; logs which they are and why.

    Args:
        kind: "fused" runs Triton on a GPU and Numba on a CPU, "reference" plain PyTorch on both.
        device: what the operations will run on; each looks at its tensors again.
    """
    if kind == "reference":
        from kernels.boundary_ce.reference import boundary_ce
        from kernels.confusion.reference import probability_confusion, resized_argmax
        from kernels.crop_resize.reference import crop_resize
        from kernels.tta_accumulate.reference import tta_accumulate

        _log.info("kernels: PyTorch references, asked for")
        return Operations(
            boundary_ce, tta_accumulate, resized_argmax, probability_confusion, crop_resize
        )
    return _fused(device)


def _fused(device: torch.device) -> Operations:
    from kernels.boundary_ce import boundary_ce
    from kernels.confusion import probability_confusion, resized_argmax
    from kernels.crop_resize import crop_resize
    from kernels.tta_accumulate import tta_accumulate

    backend = "Triton" if device.type == "cuda" else "Numba"
    _log.info("kernels: %s, the fused form on %s", backend, device.type)
    return Operations(
        boundary_ce, tta_accumulate, resized_argmax, probability_confusion, crop_resize
    )
