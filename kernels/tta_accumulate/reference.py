"""Accumulation of one view's probabilities, step by step.

Axes: B batch, T temperature, C class, H W base pixels, h w strided cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class View(NamedTuple):
    """How the network saw the base: size in pixels, mirrored or not, how logits are upsampled."""

    hw: Sequence[int]
    flipped: bool
    align_corners: bool


def zero_total(
    batch: int, temperatures: int, classes: int, hw: tuple[int, int], device: torch.device
) -> Tensor:
    """(B, T, C, H, W) float32 zeros with the classes of a pixel side by side in memory.

    In this layout each temperature is a channels-last (B, C, H, W) tensor, so that resizing and
    argmax read it in order.
    """
    total_TBHWC = torch.zeros(temperatures, batch, *hw, classes, device=device)
    return total_TBHWC.permute(1, 0, 4, 2, 3)


def tta_accumulate(
    total_BTCHW: Tensor,
    logits_BChw: Tensor,
    temperatures: Sequence[float],
    *,
    view_hw: tuple[int, int],
    flipped: bool,
    align_corners: bool,
) -> None:
    """Add softmax(upsampled logits / T) of one view to `total_BTCHW`, in place.

    The logits are upsampled to the view's size, turned into probabilities at every temperature,
    mirrored back if the view was mirrored, and resized bilinearly to the base size.

    Args:
        total_BTCHW: (B, T, C, H, W) float32 sum of the views so far, any layout; written.
        logits_BChw: (B, C, h, w), floating, any layout, on the device of the sum.
        temperatures: T positive numbers, in the order of the second axis of `total_BTCHW`.
        view_hw: size of the view that the network saw, pixels.
        flipped: the view was mirrored left to right.
        align_corners: how the logits are upsampled to the view.

    Raises:
        ValueError: the shapes do not fit together, the sum is not float32, a side is empty or a
            temperature is not positive.
    """
    check(total_BTCHW, logits_BChw, temperatures, view_hw)
    logits_BCHW = F.interpolate(
        logits_BChw.to(torch.float32), size=view_hw, mode="bilinear", align_corners=align_corners
    )
    for t, temperature in enumerate(temperatures):
        prob_BCHW = torch.softmax(logits_BCHW / temperature, dim=1)
        if flipped:
            prob_BCHW = prob_BCHW.flip(-1)
        if prob_BCHW.shape[2:] != total_BTCHW.shape[3:]:
            prob_BCHW = F.interpolate(
                prob_BCHW, size=total_BTCHW.shape[3:], mode="bilinear", align_corners=False
            )
        total_BTCHW[:, t] += prob_BCHW


def check(
    total_BTCHW: Tensor, logits_BChw: Tensor, temperatures: Sequence[float], view_hw: Sequence[int]
) -> None:
    """Raise the ValueErrors of `tta_accumulate`."""
    shape = tuple(total_BTCHW.shape)
    fits = len(shape) == 5 and logits_BChw.ndim == 4
    if not fits or logits_BChw.shape[:2] != shape[0:3:2] or len(temperatures) != shape[1]:
        raise ValueError(
            f"sum {shape} does not fit logits {tuple(logits_BChw.shape)} "
            f"at {len(temperatures)} temperatures; it must be (B, T, C, H, W)"
        )
    if total_BTCHW.dtype != torch.float32:
        raise ValueError(f"the sum must be float32, got {total_BTCHW.dtype}")
    if min(*logits_BChw.shape[2:], *view_hw, *shape[3:]) < 1:
        raise ValueError(
            f"no side may be empty: logits {tuple(logits_BChw.shape)}, view {tuple(view_hw)}, "
            f"sum {shape}"
        )
    if min(temperatures, default=1.0) <= 0:
        raise ValueError(f"temperatures must be positive, got {tuple(temperatures)}")
