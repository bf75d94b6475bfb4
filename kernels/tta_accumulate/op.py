"""Accumulation of one test-time view as an operation of PyTorch: Numba on the CPU, Triton on CUDA.

Axes: B batch, T temperature, C class, H W base pixels, h w strided cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import gpu
from kernels.tta_accumulate import cpu, launch
from kernels.tta_accumulate.reference import View, check


@torch.library.custom_op("roomsmith::tta_accumulate", mutates_args=("total_BTCHW",))
def tta_accumulate(
    total_BTCHW: Tensor,
    logits_BChw: Tensor,
    temperatures: Sequence[float],
    *,
    view_hw: Sequence[int],
    flipped: bool,
    align_corners: bool,
) -> None:
    """`reference.tta_accumulate` without storing anything of the view's size; raises as that does.

    Sums in float32, is not differentiable and does not wait for a GPU. Totals that are not laid out
    as those of `zero_total` cost a temporary of their size on the CPU; on CUDA each new set of
    temperatures compiles a kernel.
    """
    check(total_BTCHW, logits_BChw, temperatures, view_hw)
    if total_BTCHW.numel():
        accumulate = launch.accumulate if gpu.uses_triton(total_BTCHW) else cpu.accumulate
        view = View(view_hw, flipped, align_corners)
        accumulate(total_BTCHW, logits_BChw.detach(), temperatures, view)
