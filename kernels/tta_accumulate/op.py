"""Accumulation of test-time views as an operation of PyTorch: Numba on the CPU, Triton on CUDA.

Axes: B batch, T temperature, C class, H W base pixels, h w strided cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import gpu
from kernels.tta_accumulate import cpu, launch
from kernels.tta_accumulate.reference import View, check


def tta_accumulate(
    total_BTCHW: Tensor,
    logits: Sequence[Tensor],
    temperatures: Sequence[float],
    views: Sequence[View],
) -> None:
    """`reference.tta_accumulate` without storing anything of a view's size; raises as that does.

    Sums in float32, is not differentiable and does not wait for a GPU. A call with all views reads
    and writes the total once; it copies their logits, but on a GPU those of a view alone that are
    contiguous. On the CPU totals that are not laid out as those of `zero_total` cost a temporary of
    their size.
    """
    sides = [side for view in views for side in view.hw]
    flipped = [view.flipped for view in views]
    align_corners = [view.align_corners for view in views]
    _tta_accumulate(total_BTCHW, list(logits), list(temperatures), sides, flipped, align_corners)


@torch.library.custom_op("roomsmith::tta_accumulate", mutates_args=("total_BTCHW",))
def _tta_accumulate(
    total_BTCHW: Tensor,
    logits: Sequence[Tensor],
    temperatures: Sequence[float],
    sides: Sequence[int],
    flipped: Sequence[bool],
    align_corners: Sequence[bool],
) -> None:
    """The sides: height and width of each view, one after another."""
    hws = zip(sides[::2], sides[1::2], strict=True)
    views = [View(*view) for view in zip(hws, flipped, align_corners, strict=True)]
    check(total_BTCHW, logits, temperatures, views)
    if not total_BTCHW.numel() or not views:
        return
    logits = [logits_BChw.detach() for logits_BChw in logits]
    if gpu.uses_triton(total_BTCHW):
        launch.accumulate(total_BTCHW, logits, temperatures, views)
        return
    cpu.accumulate(total_BTCHW, logits, temperatures, views)
