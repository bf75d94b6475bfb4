"""Surface normals as a graph makes them of a frame's depth: `engine.data.surface` in plain PyTorch.

Each sum over the pixels around one is written as the reference of `kernels.surface` has it, all of
them side by side in one tensor, so that a runtime needs nothing but sums and products.

Axes: H W pixels of the frame, h w its cells, 49 the pixels that a plane is fitted to.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data.surface import Surface, cell_side
from engine.nyuv2 import MILLIMETRES_PER_METRE
from kernels.surface.reference import LEAST, NEAR, RADIUS, STEP

_TAPS = [*itertools.product(range(-RADIUS, RADIUS + 1), repeat=2)]
"""Down and right, in STEPs."""

_UNIT = 127.0
"""Cells hold a channel's 1 as that, and what is between as whole numbers."""


def normal_cells(depth_1HW: Tensor, surface: Surface) -> Tensor:
    """(1, 3, h, w): what `Surface.cells` has in 127ths, of a frame whose size is fixed.

    Args:
        depth_1HW: float32, thousandths of units, 0 = missing.
        surface: of kind "normals".
    """
    H, W = depth_1HW.shape[1:]
    side = cell_side((H, W))
    rows_h, columns_w = (_middles(length, side) for length in (H, W))
    depth_hw = depth_1HW[0].index_select(0, rows_h).index_select(1, columns_w)
    # Whole units again: then metres are the engine's to the last bit, and the same pixels count.
    metres_hw = (depth_hw * MILLIMETRES_PER_METRE).round() * surface.metres_a_unit
    known_hw = metres_hw > 0
    own_hw = torch.where(known_hw, 1 / torch.where(known_hw, metres_hw, 1.0), 0.0)
    pitch = 2 * math.tan(math.radians(surface.horizontal_fov) / 2) * side / W

    h, w, margin = len(rows_h), len(columns_w), RADIUS * STEP
    around = F.pad(own_hw[None], (margin, margin, margin, margin))[0]
    shifted = [
        around[margin + j * STEP : margin + j * STEP + h, margin + i * STEP : margin + i * STEP + w]
        for j, i in _TAPS
    ]
    e = torch.stack(shifted) - own_hw
    counts = (e.abs() < NEAR * own_hw).to(torch.float32)
    e = e * counts
    down, right = torch.tensor(_TAPS, dtype=torch.float32).T[..., None, None]
    n, si, sj = (part.sum(0) for part in (counts, counts * right, counts * down))
    sii, sij, sjj = ((counts * part).sum(0) for part in (right * right, right * down, down * down))
    se, sie, sje = (part.sum(0) for part in (e, e * right, e * down))
    n = n.clamp_min(1.0)
    ii, ij, jj = sii - si * si / n, sij - si * sj / n, sjj - sj * sj / n
    ie, je = sie - si * se / n, sje - sj * se / n
    det = ii * jj - ij * ij
    fitted_hw = known_hw & (det >= LEAST)
    det = torch.where(fitted_hw, det, 1.0)
    a, b = (ie * jj - je * ij) / det, (je * ii - ie * ij) / det
    level = own_hw + (se - a * si - b * sj) / n
    v_h, u_w = ((torch.arange(side) + 0.5 - side / 2) * pitch for side in (h, w))
    a, b = a / (STEP * pitch), b / (STEP * pitch)
    plane = torch.stack([a, b, level - a * u_w - b * v_h[:, None]])
    length_hw = plane.square().sum(0).sqrt()
    normal = -plane / torch.where(fitted_hw, length_hw, 1.0)
    packed = (normal.clamp(-1, 1) * _UNIT).round() / _UNIT
    return torch.where(fitted_hw, packed, 0.0)[None]


def _middles(length: int, side: int) -> Tensor:
    """The pixel of each cell that is looked at, along an axis; one cut off has the last one's."""
    cells, whole = -(-length // side), len(range(side // 2, length, side))
    return (torch.arange(cells).clamp_max(whole - 1) * side) + side // 2
