"""Accumulation of the probabilities of views, step by step.

Axes: B batch, T temperature, C class, H W base pixels, h w strided cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Band(NamedTuple):
    """Some rows of the base and of the cells, where neither sum nor logits hold all."""

    first: int
    """Row of the base that is the sum's first."""
    rows: int
    """Of the base, in all."""
    first_cell: int
    """Row of cells that is the logits' first."""
    cells: int
    """Rows of them, in all."""


class View(NamedTuple):
    """How the network saw the base: size in pixels, mirrored or not, how logits are upsampled."""

    hw: tuple[int, int]
    flipped: bool
    align_corners: bool
    band: Band | None = None
    """None: sum and logits hold all rows."""


def zero_total(
    batch: int, temperatures: int, classes: int, hw: tuple[int, int], device: torch.device
) -> Tensor:
    """(B, T, C, H, W) float32 zeros in the layout that is added to fastest.

    On a CPU the classes of a pixel lie side by side: each temperature is a channels-last
    (B, C, H, W) tensor, which resizing and argmax read in order. On a GPU the pixels of a class do,
    since neighbouring threads have neighbouring pixels.
    """
    if device.type == "cuda":
        return torch.zeros(batch, temperatures, classes, *hw, device=device)
    total_TBHWC = torch.zeros(temperatures, batch, *hw, classes, device=device)
    return total_TBHWC.permute(1, 0, 4, 2, 3)


def tta_accumulate(
    total_BTCHW: Tensor,
    logits: Sequence[Tensor],
    temperatures: Sequence[float],
    views: Sequence[View],
) -> None:
    """Add softmax(upsampled logits / T) of views, one after another, to `total_BTCHW`, in place.

    A view's logits are upsampled to its size, turned into probabilities at every temperature,
    mirrored back if it was mirrored, and resized bilinearly to the base size.

    Args:
        total_BTCHW: (B, T, C, H, W) float32 sum of the views so far, any layout; written. H and h
            are those of a view's `band`, if it has one.
        logits: of each view (B, C, h, w), floating, any layout, on the device of the sum.
        temperatures: T positive numbers, in the order of the second axis of `total_BTCHW`.
        views: what the network saw, for each of `logits`.

    Raises:
        ValueError: the shapes do not fit together, the sum is not float32, a side is empty, a
            temperature is not positive or a band's cells do not suffice for its rows.
    """
    check(total_BTCHW, logits, temperatures, views)
    for logits_BChw, view in zip(logits, views, strict=True):
        _add(total_BTCHW, logits_BChw, temperatures, view)


def check(
    total_BTCHW: Tensor,
    logits: Sequence[Tensor],
    temperatures: Sequence[float],
    views: Sequence[View],
) -> None:
    """Raise the ValueErrors of `tta_accumulate`."""
    if len(logits) != len(views):
        raise ValueError(f"logits of {len(logits)} views do not fit {len(views)} views")
    if total_BTCHW.dtype != torch.float32:
        raise ValueError(f"the sum must be float32, got {total_BTCHW.dtype}")
    if min(temperatures, default=1.0) <= 0:
        raise ValueError(f"temperatures must be positive, got {tuple(temperatures)}")
    shape = tuple(total_BTCHW.shape)
    for logits_BChw, view in zip(logits, views, strict=True):
        fits = len(shape) == 5 and logits_BChw.ndim == 4
        if not fits or logits_BChw.shape[:2] != shape[0:3:2] or len(temperatures) != shape[1]:
            raise ValueError(
                f"sum {shape} does not fit logits {tuple(logits_BChw.shape)} "
                f"at {len(temperatures)} temperatures; it must be (B, T, C, H, W)"
            )
        if min(*logits_BChw.shape[2:], *view.hw, *shape[3:]) < 1:
            raise ValueError(
                f"no side may be empty: logits {tuple(logits_BChw.shape)}, view {tuple(view.hw)}, "
                f"sum {shape}"
            )
        if view.band is not None:
            _check_band(view, view.band, logits_BChw.shape[2], shape[3])


def needed_cells(view: View, rows: tuple[int, int], base: int, cells: int) -> tuple[int, int]:
    """The rows of cells, first and one past the last, that some rows of the base are made of.

    Args:
        view: whose; its band does not count.
        rows: of the base, first and one past the last.
        base: rows of it in all.
        cells: rows of them in all.
    """
    height = view.hw[0]
    above = max((2 * rows[0] + 1) * height - base, 0) // (2 * base)
    below = min(max((2 * rows[1] - 1) * height - base, 0) // (2 * base) + 1, height - 1)
    if view.align_corners:
        pitch, span = cells - 1, max(height - 1, 1)
        return above * pitch // span, min(below * pitch // span + 2, cells)
    first = max((2 * above + 1) * cells - height, 0) // (2 * height)
    last = max((2 * below + 1) * cells - height, 0) // (2 * height)
    return first, min(last + 2, cells)


def _check_band(view: View, band: Band, held: int, rows: int) -> None:
    wanted = band.first, band.first + rows
    if not 0 <= band.first < wanted[1] <= band.rows:
        raise ValueError(f"rows {wanted[0]} to {wanted[1]} are not of a base of {band.rows}")
    first, end = needed_cells(view, wanted, band.rows, band.cells)
    if not band.first_cell <= first < end <= band.first_cell + held <= band.cells:
        raise ValueError(
            f"rows {wanted[0]} to {wanted[1]} of {band.rows} need rows {first} to {end} of "
            f"{band.cells} of the logits; got {held} from {band.first_cell} on"
        )


def _add(
    total_BTCHW: Tensor, logits_BChw: Tensor, temperatures: Sequence[float], view: View
) -> None:
    rows, (H, W) = slice(None), total_BTCHW.shape[3:]
    if view.band is not None:
        # What is not there is not looked at.
        first, height, above, cells = view.band
        B, C, h, w = logits_BChw.shape
        whole_BChw = logits_BChw.new_zeros(B, C, cells, w)
        whole_BChw[:, :, above : above + h] = logits_BChw
        logits_BChw, rows, H = whole_BChw, slice(first, first + H), height
    logits_BCHW = F.interpolate(
        logits_BChw.to(torch.float32),
        size=view.hw,
        mode="bilinear",
        align_corners=view.align_corners,
    )
    for t, temperature in enumerate(temperatures):
        prob_BCHW = torch.softmax(logits_BCHW / temperature, dim=1)
        if view.flipped:
            prob_BCHW = prob_BCHW.flip(-1)
        if prob_BCHW.shape[2:] != (H, W):
            prob_BCHW = F.interpolate(prob_BCHW, size=(H, W), mode="bilinear", align_corners=False)
        total_BTCHW[:, t] += prob_BCHW[:, :, rows]
