"""GroupNorm, ReLU, bilinear upsampling and a sum, step by step.

Axes: B batch, C channel, h w cells, H W cells of the output: as many, or twice as many a side.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GroupNorm(NamedTuple):
    """A GroupNorm's parameters (Wu and He, "Group Normalization", ECCV 2018)."""

    weight_C: Tensor
    bias_C: Tensor
    groups: int
    eps: float


def group_norm_relu(
    x_BChw: Tensor, norm: GroupNorm, *, doubled: bool = False, added_BCHW: Tensor | None = None
) -> Tensor:
    """relu(group_norm(x)), upsampled if `doubled`, plus `added_BCHW`: rounded once, at the end.

    Everything before is float32, or float64 where the input is, under any autocast.

    Args:
        x_BChw: (B, C, h, w), floating, any layout; no side empty.
        norm: C weights and biases, floating; `groups` divides C.
        doubled: the cells are upsampled to 2h x 2w, bilinearly, with aligned corners.
        added_BCHW: None, or of the output's shape and the input's dtype.

    Returns:
        (B, C, H, W), channels-last, of the input's dtype.

    Raises:
        ValueError: shapes or dtypes do not fit together.
    """
    check(x_BChw, norm, doubled, added_BCHW)
    real = torch.promote_types(x_BChw.dtype, torch.float32)
    with torch.autocast(x_BChw.device.type, enabled=False):
        affine = (norm.weight_C.to(real), norm.bias_C.to(real))
        # Not of `torch.nn.functional`, which refuses groups of one value.
        y_BCHW = torch.group_norm(x_BChw.to(real), norm.groups, *affine, norm.eps).relu()
        if doubled:
            y_BCHW = F.interpolate(y_BCHW, scale_factor=2.0, mode="bilinear", align_corners=True)
        if added_BCHW is not None:
            y_BCHW = y_BCHW + added_BCHW
    return y_BCHW.to(x_BChw.dtype).contiguous(memory_format=torch.channels_last)


def check(x_BChw: Tensor, norm: GroupNorm, doubled: bool, added_BCHW: Tensor | None) -> None:
    """Raise the ValueErrors of `group_norm_relu`."""
    shape = tuple(x_BChw.shape)
    if len(shape) != 4 or not x_BChw.is_floating_point() or min(shape[1:]) < 1:
        raise ValueError(f"need floating (B, C, h, w) with no empty side, got {shape}")
    C = shape[1]
    if norm.groups < 1 or C % norm.groups:
        raise ValueError(f"{norm.groups} groups do not divide {C} channels")
    if norm.weight_C.shape != (C,) or norm.bias_C.shape != (C,):
        found = tuple(norm.weight_C.shape), tuple(norm.bias_C.shape)
        raise ValueError(f"weights and biases must be ({C},), got {found[0]} and {found[1]}")
    wanted = (*shape[:2], *(side * (2 if doubled else 1) for side in shape[2:]))
    if added_BCHW is not None and (added_BCHW.shape != wanted or added_BCHW.dtype != x_BChw.dtype):
        raise ValueError(
            f"what is added must be {wanted} {x_BChw.dtype}, "
            f"got {tuple(added_BCHW.shape)} {added_BCHW.dtype}"
        )
