"""Boundary-weighted cross-entropy, written as the mathematics reads.

Axes: B batch, C class, H W pixels, h w strided cells.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.upsample import upsample

IGNORE_INDEX = 255
EPSILON = 1e-6
"""Keeps the mean finite where every pixel is ignored."""


class Weights(NamedTuple):
    """What a pixel weighs: (C,) by its class, by whether it is at an edge, and what makes one."""

    class_C: Tensor
    boundary: float
    ignored_edges: bool


def boundary_ce(
    logits_BChw: Tensor,
    label_BHW: Tensor,
    class_weight_C: Tensor,
    boundary_weight: float,
    *,
    align_corners: bool,
    ignored_edges: bool = False,
) -> Tensor:
    """Weighted cross-entropy of bilinearly upsampled logits.

    With u the upsampled logits, k the class weight of the label y, and b the boundary weight
    where the 3x3 neighbourhood holds another label (else 1), over pixels with y != 255:

        sum k b [lse(u) - u_y] / (sum b + 1e-6)

    Args:
        logits_BChw: (B, C, h, w), floating, any layout.
        label_BHW: (B, H, W), uint8 or int64, 0 .. C-1 or 255 = ignore; H and W are the same
            multiple of h and w.
        class_weight_C: (C,), the dtype and device of the logits.
        boundary_weight: weight of pixels beside another label; 1 = plain cross-entropy.
        align_corners: how the logits are upsampled, as in `torch.nn.functional.interpolate`.
        ignored_edges: an ignored neighbour counts as class 0 (the published recipe) instead of
            making no edge.

    Returns:
        Scalar of the logits' dtype (at least float32); 0, with gradient 0, if all is ignored.

    Raises:
        ValueError: the shapes do not fit together.
    """
    check(logits_BChw, label_BHW, class_weight_C)
    dtype = torch.promote_types(logits_BChw.dtype, torch.float32)
    H, W = label_BHW.shape[1:]
    logits_BCHW = upsample(logits_BChw.to(dtype), (H, W), align_corners=align_corners)
    loss_BHW = F.cross_entropy(
        logits_BCHW,
        label_BHW.long(),
        weight=class_weight_C.to(dtype),
        ignore_index=IGNORE_INDEX,
        reduction="none",
    )
    weight_BHW = pixel_weights(label_BHW, boundary_weight, ignored_edges, dtype)
    return (weight_BHW * loss_BHW).sum() / (weight_BHW.sum() + EPSILON)


def check(logits_BChw: Tensor, label_BHW: Tensor, class_weight_C: Tensor) -> None:
    """Raise a ValueError if the shapes of `boundary_ce`'s arguments do not fit together."""
    B, C, h, w = logits_BChw.shape
    if label_BHW.ndim != 3 or label_BHW.shape[0] != B:
        raise ValueError(f"labels must be (B={B}, H, W), got {tuple(label_BHW.shape)}")
    H, W = label_BHW.shape[1:]
    if H % h or W % w or H // h != W // w:
        raise ValueError(
            f"labels {H} x {W} must be the same multiple of the logits {h} x {w} in both directions"
        )
    if class_weight_C.shape != (C,):
        raise ValueError(f"class weights must be ({C},), got {tuple(class_weight_C.shape)}")


def pixel_weights(
    label_BHW: Tensor, boundary_weight: float, ignored_edges: bool, dtype: torch.dtype
) -> Tensor:
    """(B, H, W) weights b: 0 where ignored, `boundary_weight` at label edges, else 1."""
    valid_BHW = label_BHW != IGNORE_INDEX
    value_BHW = label_BHW.to(torch.float32)
    # An ignored neighbour counts as class 0, or must win neither the maximum nor the minimum.
    loser = 0.0 if ignored_edges else -torch.inf
    largest_BHW, negated_smallest_BHW = (
        F.max_pool2d(signed_BHW.masked_fill(~valid_BHW, loser)[:, None], 3, stride=1, padding=1)
        for signed_BHW in (value_BHW, -value_BHW)
    )
    edge_BHW = (largest_BHW != -negated_smallest_BHW)[:, 0]
    weight_BHW = torch.where(edge_BHW, boundary_weight, 1.0).to(dtype)
    return weight_BHW * valid_BHW
