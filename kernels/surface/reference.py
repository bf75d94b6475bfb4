"""Surface normals of a depth map, and crops of what is made of them, as the mathematics reads.

On a plane n . X = d a pixel with ray (u, v, 1) has depth z with n . (u, v, 1) = d / z: inverse
depth is linear in u and v there, by coefficients that are n / d. So a plane fitted to the inverse
depths around a pixel is a plane in space, and it is fitted where a structured-light sensor's noise
is the same near and far.

Axes: H W pixels; B rows of a batch, C channels of its images, K channels that are appended, h w
cells of a frame. x to the right, y down, z ahead of the camera.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RADIUS, STEP = 3, 2
"""A pixel is fitted to (2 RADIUS + 1)^2 around it, STEP pixels apart: 13 pixels a side."""

NEAR = 0.06
"""Others count if their inverse depth differs by less than this share: more is another surface."""

LEAST = 1.0
"""Determinant of the taps' scatter, in STEPs: less, and they lie on a line or are too few."""


def surface_normals(inverse_HW: NDArray[np.float32], pitch: float) -> NDArray[np.float64]:
    """Unit normals that face the camera, 0 where the depth is missing or nothing is beside it.

    Args:
        inverse_HW: 1 / depth, 0 = missing; the optical axis meets the middle.
        pitch: distance of two pixels at depth 1: 1 / focal length in pixels.

    Returns:
        (H, W, 3), along x, y and z.
    """
    (H, W), margin = inverse_HW.shape, RADIUS * STEP
    own_HW = inverse_HW.astype(np.float64)
    around = np.pad(own_HW, margin)
    # Sums over the taps: 1, i, j, i i, i j, j j, e, e i, e j; e the difference in inverse depth.
    sums = np.zeros((9, H, W))
    for j, i in itertools.product(range(-RADIUS, RADIUS + 1), repeat=2):
        top, left = margin + j * STEP, margin + i * STEP
        e_HW = around[top : top + H, left : left + W] - own_HW
        counts_HW = np.abs(e_HW) < np.float32(NEAR) * own_HW
        e_HW = e_HW * counts_HW
        ones_HW = counts_HW.astype(np.float64)
        sums[:6] += np.multiply.outer([1, i, j, i * i, i * j, j * j], ones_HW)
        sums[6:] += np.multiply.outer([1, i, j], e_HW)
    with np.errstate(divide="ignore", invalid="ignore"):
        n, si, sj, sii, sij, sjj, se, sie, sje = sums
        ii, ij, jj = sii - si * si / n, sij - si * sj / n, sjj - sj * sj / n
        ie, je = sie - si * se / n, sje - sj * se / n
        det = ii * jj - ij * ij
        a, b = (ie * jj - je * ij) / det, (je * ii - ie * ij) / det
        level = own_HW + (se - a * si - b * sj) / n
        u_W, v_H = ((np.arange(side) + 0.5 - side / 2) * pitch for side in (W, H))
        a, b = a / (STEP * pitch), b / (STEP * pitch)
        plane = np.stack([a, b, level - a * u_W - b * v_H[:, None]], axis=-1)
        normal_HW3 = -plane / np.linalg.norm(plane, axis=-1, keepdims=True)
    known_HW = (own_HW > 0) & (det >= LEAST)
    return np.where(known_HW[..., None], normal_HW3, 0.0)


CELL_BYTES = 4
"""Of a cell: an int8 for each channel, of which there may be so many, in one int32."""


def bytes_of(cell: Tensor) -> Tensor:
    """int32 of any shape as (..., 4) int8; contiguous, and not copied."""
    return cell.view(torch.int8).view(*cell.shape, CELL_BYTES)


def append_cells(
    image_BCHW: Tensor,
    depth_BHW: Tensor,
    cells: Sequence[Tensor],
    row_BH: Tensor,
    column_BW: Tensor,
    sign_BK: Tensor,
) -> Tensor:
    """Append the first K bytes of cells, each times its sign / 127; 0 where there is no depth.

    Args:
        image_BCHW: float32.
        depth_BHW: float32, 0 = none.
        cells: B of (h, w) int32, contiguous.
        row_BH: int64 on the CPU, the row of its cells that each row of a crop shows, in [0, h).
        column_BW: the same of columns.
        sign_BK: float32 on the CPU, a factor of each channel.

    Returns:
        (B, C + K, H, W) float32, channels-last, new.

    Raises:
        ValueError: shapes or types do not fit together.
    """
    check_arguments(image_BCHW, depth_BHW, cells, row_BH, column_BW, sign_BK)
    device, K = image_BCHW.device, sign_BK.shape[1]
    taken = [
        cells_hw[row_H.to(device)[:, None], column_W.to(device)]
        for cells_hw, row_H, column_W in zip(cells, row_BH, column_BW, strict=True)
    ]
    taken_BHW = torch.stack(taken) if taken else depth_BHW.to(torch.int32)
    part_BHWK = bytes_of(taken_BHW)[..., :K] * (sign_BK.to(device) / 127)[:, None, None]
    part_BHWK = torch.where((depth_BHW > 0)[..., None], part_BHWK, 0.0)
    return torch.cat([image_BCHW.permute(0, 2, 3, 1), part_BHWK], dim=3).permute(0, 3, 1, 2)


def check_arguments(
    image_BCHW: Tensor,
    depth_BHW: Tensor,
    cells: Sequence[Tensor],
    row_BH: Tensor,
    column_BW: Tensor,
    sign_BK: Tensor,
) -> None:
    """Refuse shapes and types that `append_cells` cannot work on; reads no cells.

    Raises:
        ValueError: naming what came and what is needed.
    """
    B, _, H, W = image_BCHW.shape
    K = sign_BK.shape[-1]
    shapes = [tuple(each.shape) for each in (depth_BHW, row_BH, column_BW, sign_BK)]
    if shapes != [(B, H, W), (B, H), (B, W), (B, K)] or len(cells) != B or K > CELL_BYTES:
        raise ValueError(
            f"images {tuple(image_BCHW.shape)} do not fit depth, rows, columns and signs of shapes "
            f"{shapes} and {len(cells)} frames of cells of at most {CELL_BYTES} channels"
        )
    types = [each.dtype for each in (image_BCHW, depth_BHW, row_BH, column_BW, sign_BK)]
    needed = [torch.float32, torch.float32, torch.int64, torch.int64, torch.float32]
    if types != needed or any(each.dtype != torch.int32 for each in cells):
        raise ValueError(f"need {needed} and cells of torch.int32, got {types}")
    for name, index, axis in (("row", row_BH, 0), ("column", column_BW, 1)):
        for one, own in zip(cells, index, strict=True):
            low, high = own.aminmax()
            if low < 0 or high >= one.shape[axis]:
                raise ValueError(f"a {name} of cells lies outside {tuple(one.shape)}")
