"""How the Triton kernel of this folder is launched: tile, grid and constants.

Axes: as in op.py.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kernels.gpu import power_of_two
from kernels.tta_accumulate.reference import View

LAUNCH = {"num_warps": 4}
TILE = 512
"""Classes times pixels of a program: four a thread, at which nothing leaves the registers."""


def accumulate(
    total_BTCHW: Tensor, logits_BChw: Tensor, temperatures: Sequence[float], view: View
) -> None:
    """Add one view to the total, in place; each new set of temperatures compiles a kernel."""
    from kernels.tta_accumulate.triton import add_view

    B, _, C, H, W = total_BTCHW.shape
    constants = tile_constants(temperatures, C, tuple(view.hw) != (H, W), view.align_corners)
    sizes = (H, W, *view.hw, *logits_BChw.shape[2:], *total_BTCHW.stride(), *logits_BChw.stride())
    grid = (-(-W // constants["L"]) * H, B)
    # Not as a bool, which the interpreter of Triton 3.6 does not take.
    add_view[grid](total_BTCHW, logits_BChw, *sizes, int(view.flipped), **constants, **LAUNCH)


def tile_constants(
    temperatures: Sequence[float], classes: int, resized: bool, align_corners: bool
) -> dict[str, Any]:
    """Of `add_view`, but for strides that are constant."""
    padded = power_of_two(classes)
    return {
        "INVERSE_T": tuple(1 / temperature for temperature in temperatures),
        "CLASSES": classes,
        "RESIZED": resized,
        "ALIGN_CORNERS": align_corners,
        "L": max(TILE // padded, 1),
        "C": padded,
    }
