"""How the Triton kernel of this folder is launched: tables of taps, grid and constants.

Where a row or column of a crop reads is worked out here, in float64, once for all its pixels: on
the device each would repeat it, at a fraction of float32's rate or a 64th of it.

Axes: see reference.py. n: rows or columns of a crop.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import gpu
from kernels.cpu import Array, Doubles, Integers
from kernels.crop_resize.reference import Crops, Frames

BLOCK = 256
# Every operation rounds, as PyTorch's do: the values are the reference's but for the last bit.
LAUNCH = {"num_warps": 4, "enable_fp_fusion": False}
"""Pixels a program and its launch: two a thread."""


def crop_resize(frames: Frames, draw_B8: Tensor, numbers: Sequence[float], outputs: Crops) -> None:
    """Write crops, channels last; see `op._crop_resize`."""
    from kernels.crop_resize.triton import crop_rows

    rows, h, w, channels = outputs.image_BChw.shape
    tables = _upload(_tables(frames, draw_B8.numpy(), (h, w)), frames.image_P3.device)
    grid = (-(-w // BLOCK), h, rows)
    arguments = (*frames[:3], *tables, *outputs, h, w, *numbers)
    crop_rows[grid](*arguments, C=channels, BLOCK=BLOCK, **LAUNCH)


def _tables(frames: Frames, draw_B8: Doubles, crop_hw: tuple[int, int]) -> list[Array]:
    """Of each crop its frame's first pixel (B,), taps of rows and of columns, light (B, 2)."""
    sample_B, top_B, left_B, height_B, width_B, mirrored_B, *light = draw_B8.T
    index_B = sample_B.astype(np.int64)
    H_B, W_B = frames.hw_N2.numpy()[index_B].T
    at_h, at_w = (np.arange(count) + 0.5 for count in crop_hw)
    y_Bh = top_B[:, None] + at_h * (height_B / len(at_h))[:, None]
    at_Bw = np.where(mirrored_B[:, None] != 0, at_w[::-1], at_w)
    x_Bw = left_B[:, None] + at_Bw * (width_B / len(at_w))[:, None]
    return [
        frames.offset_N.numpy()[index_B],
        _taps(y_Bh, H_B, W_B),
        _taps(x_Bw, W_B, np.ones_like(W_B)),
        np.stack([light[0], 255 * light[1].astype(np.float32)], axis=1).astype(np.float32),
    ]


def _taps(position_Bn: Doubles, side_B: Integers, stride_B: Integers) -> NDArray[np.int32]:
    """(B, 4, n) offsets of the taps before and after, weight of the latter, the nearest's offset.

    Beyond the border taps repeat it, and there is no nearest: -1. The weight is bits of float32.
    """
    side_B1, stride_B1 = side_B[:, None], stride_B[:, None]
    centred_Bn = np.clip(position_Bn - 0.5, 0, side_B1 - 1)
    before_Bn = np.clip(centred_Bn.astype(np.int64), 0, np.maximum(side_B1 - 2, 0))
    weight_Bn = (centred_Bn - before_Bn).astype(np.float32)
    after_Bn = np.minimum(before_Bn + 1, side_B1 - 1)
    # The cast truncates, as floor does there.
    nearest_Bn = np.clip(position_Bn, 0, side_B1 - 1).astype(np.int64)
    inside_Bn = (position_Bn >= 0) & (position_Bn < side_B1)
    before, after, nearest = (
        (at_Bn * stride_B1).astype(np.int32) for at_Bn in (before_Bn, after_Bn, nearest_Bn)
    )
    nearest = np.where(inside_Bn, nearest, np.int32(-1))
    return np.stack([before, after, weight_Bn.view(np.int32), nearest], axis=1)


def _upload(tables: list[Array], device: torch.device) -> list[Tensor]:
    """Arrays on a device, in one copy: those of 8 bytes a number come first."""
    flat = np.concatenate([table.reshape(-1).view(np.uint8) for table in tables])
    sizes = [table.nbytes for table in tables]
    parts = torch.split(gpu.upload(torch.from_numpy(flat), device), sizes)
    dtypes = (torch.from_numpy(table).dtype for table in tables)
    return [part.view(dtype) for part, dtype in zip(parts, dtypes, strict=True)]
