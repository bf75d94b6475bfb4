"""Accumulation of test-time views as an operation of PyTorch: Numba on the CPU, Triton on CUDA.

Axes: B batch, T temperature, C class, H W base pixels, h w strided cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import gpu
from kernels.tta_accumulate import cpu, launch
from kernels.tta_accumulate.reference import Band, View, check

_ALL_ROWS = 0, 0, 0, 0
"""In place of a band where there is none."""


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
    sizes = [number for view in views for number in (*view.hw, *(view.band or _ALL_ROWS))]
    flipped = [view.flipped for view in views]
    align_corners = [view.align_corners for view in views]
    _tta_accumulate(total_BTCHW, list(logits), list(temperatures), sizes, flipped, align_corners)


@torch.library.custom_op("roomsmith::tta_accumulate", mutates_args=("total_BTCHW",))
def _tta_accumulate(
    total_BTCHW: Tensor,
    logits: Sequence[Tensor],
    temperatures: Sequence[float],
    sizes: Sequence[int],
    flipped: Sequence[bool],
    align_corners: Sequence[bool],
) -> None:
    """The sizes: of each view height, width and what its band says, one after another."""
    views = []
    starts = range(0, len(sizes), 6)
    for start, mirrored, aligned in zip(starts, flipped, align_corners, strict=True):
        height, width, *band = sizes[start : start + 6]
        part = None if tuple(band) == _ALL_ROWS else Band(*band)
        views.append(View((height, width), mirrored, aligned, part))
    check(total_BTCHW, logits, temperatures, views)
    if not total_BTCHW.numel() or not views:
        return
    logits = [logits_BChw.detach() for logits_BChw in logits]
    if gpu.uses_triton(total_BTCHW):
        launch.accumulate(total_BTCHW, logits, temperatures, views)
        return
    cpu.accumulate(total_BTCHW, logits, temperatures, views)
