"""How the Triton kernels of this folder are launched: runs, tiles and tables.

Axes: as in op.py; R runs of an image. Every tensor of cells is channels-last and dense.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.gpu import power_of_two
from kernels.group_norm_relu.reference import GroupNorm

LAUNCH = {"num_warps": 4}
MOST_RUNS = 256
"""Of an image: with four images, as many programs as 132 multiprocessors hold at once."""
MOST_CHANNELS = 128
"""Of a program: a cell's load fills whole sectors; further channels go to other programs."""
TILE = 2048
"""Channels times cells that a program reads at a time: 16 a thread, as two 128-bit loads."""
DOUBLED_TILE = 1024
"""Where a cell needs its eight neighbours, or its sixteen gradients, in registers."""


def forward(
    x_BChw: Tensor, norm: GroupNorm, doubled: bool, added_BCHW: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The result, and mean and 1 / deviation of each image's groups: three launches."""
    from kernels.group_norm_relu import triton

    B, C, h, w = x_BChw.shape
    groups, size = norm.groups, 2 if doubled else 1
    y_BCHW = x_BChw.new_empty((B, h * size, w * size, C)).permute(0, 3, 1, 2)
    moment_BG2 = x_BChw.new_empty((B, groups, 2), dtype=real(x_BChw))
    if not B:
        return y_BCHW, moment_BG2
    run, grid = _runs(x_BChw)
    table_BR2C = x_BChw.new_empty((B, grid[0], 2, C), dtype=moment_BG2.dtype)
    triton.run_moments[grid](x_BChw, table_BR2C, h * w, run, **tile(C), **LAUNCH)
    merge = merge_constants(C, groups)
    sizes = (h * w, run, grid[0], norm.eps)
    triton.merge_moments[(groups, B)](table_BR2C, moment_BG2, *sizes, **merge, **LAUNCH)
    arrays = (x_BChw, added_BCHW, y_BCHW, moment_BG2, norm.weight_C, norm.bias_C)
    if doubled:
        constants = tile(C, doubled=True, groups=groups)
        triton.normalise_doubled[grid](*arrays, h, w, run, **constants, **LAUNCH)
    else:
        triton.normalise[grid](*arrays, h * w, run, **tile(C, groups=groups), **LAUNCH)
    return y_BCHW, moment_BG2


def backward(
    grad_BCHW: Tensor,
    x_BChw: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    moment_BG2: Tensor,
    doubled: bool,
) -> tuple[Tensor, Tensor]:
    """Gradient of the input, (2, C) of weights and biases; three launches and a sum over images."""
    from kernels.group_norm_relu import triton_backward as triton

    B, C, h, w = x_BChw.shape
    groups = moment_BG2.shape[1]
    grad_BChw = torch.empty_like(x_BChw, memory_format=torch.channels_last)
    if not B:
        return grad_BChw, moment_BG2.new_zeros((2, C))
    run, grid = _runs(x_BChw)
    table_BR2C = moment_BG2.new_empty((B, grid[0], 2, C))
    sum_B2C = moment_BG2.new_empty((B, 2, C))
    mean_BG2 = torch.empty_like(moment_BG2)
    affine = (moment_BG2, weight_C, bias_C)
    constants = {"DOUBLED": doubled, **tile(C, doubled=doubled, groups=groups)}
    arrays = (x_BChw, grad_BCHW, grad_BChw, table_BR2C, *affine)
    triton.run_gradients[grid](*arrays, h, w, run, **constants, **LAUNCH)
    merge = merge_constants(C, groups)
    tables = (table_BR2C, sum_B2C, mean_BG2, moment_BG2, weight_C)
    triton.merge_gradients[(groups, B)](*tables, h * w, grid[0], **merge, **LAUNCH)
    # Doubled, the gathered gradient already stands where the input's will.
    given = grad_BChw if doubled else grad_BCHW
    arrays = (x_BChw, given, grad_BChw, mean_BG2, *affine)
    constants = {"MASKED": doubled, **tile(C, groups=groups)}
    triton.input_gradient[grid](*arrays, h * w, run, **constants, **LAUNCH)
    return grad_BChw, sum_B2C.sum(0)


def real(x: Tensor) -> torch.dtype:
    """The dtype of sums: float32, or float64 where the input is."""
    return torch.promote_types(x.dtype, torch.float32)


def tile(channels: int, *, doubled: bool = False, groups: int = 0) -> dict[str, Any]:
    """Constants of the kernels that go over cells; without `groups`, of the one that knows none."""
    block = min(power_of_two(channels), MOST_CHANNELS)
    of_groups = {"SHARE": channels // groups} if groups else {}
    cells = (DOUBLED_TILE if doubled else TILE) // block
    return {"CHANNELS": channels, **of_groups, "L": cells, "C": block}


def merge_constants(channels: int, groups: int) -> dict[str, Any]:
    """Of the two kernels that merge what the runs of an image found, a program a group."""
    share = channels // groups
    return {"CHANNELS": channels, "SHARE": share, "R": MOST_RUNS, "S": power_of_two(share)}


def _runs(x_BChw: Tensor) -> tuple[int, tuple[int, int, int]]:
    """Cells of a run, whole tiles and so many that `MOST_RUNS` suffice; the grid."""
    B, C, h, w = x_BChw.shape
    constants = tile(C)
    cells = constants["L"]
    run = cells * -(-h * w // (cells * MOST_RUNS))
    return run, (-(-h * w // run), -(-C // constants["C"]), B)
