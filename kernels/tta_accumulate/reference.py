"""Accumulation of one view's probabilities, step by step.

Axes: B batch, T temperature, C class, H W base pixels, h w strided cells.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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
        total_BTCHW: (B, T, C, H, W) float32 sum of the views so far; written.
        logits_BChw: (B, C, h, w), floating.
        temperatures: T positive numbers, in the order of the second axis of `total_BTCHW`.
        view_hw: size of the view that the network saw, pixels.
        flipped: the view was mirrored left to right.
        align_corners: how the logits are upsampled to the view.

    Raises:
        ValueError: the shapes do not fit together.
    """
    B, T, C, H, W = total_BTCHW.shape
    if logits_BChw.shape[:2] != (B, C) or len(temperatures) != T:
        raise ValueError(
            f"sum {tuple(total_BTCHW.shape)} does not fit logits {tuple(logits_BChw.shape)} "
            f"at {len(temperatures)} temperatures; it must be (B, T, C, H, W)"
        )
    logits_BCHW = F.interpolate(
        logits_BChw.to(torch.float32), size=view_hw, mode="bilinear", align_corners=align_corners
    )
    for t, temperature in enumerate(temperatures):
        prob_BCHW = torch.softmax(logits_BCHW / temperature, dim=1)
        if flipped:
            prob_BCHW = prob_BCHW.flip(-1)
        if view_hw != (H, W):
            prob_BCHW = F.interpolate(prob_BCHW, size=(H, W), mode="bilinear", align_corners=False)
        total_BTCHW[:, t] += prob_BCHW
