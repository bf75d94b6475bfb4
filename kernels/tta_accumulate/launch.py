"""How the Triton kernel of this folder is launched: tile, grid and constants.

Axes: as in op.py.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from torch import Tensor

from kernels.gpu import Specialisation, power_of_two, specialise
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
    constants = _constants(temperatures, C, tuple(view.hw) != (H, W), view.align_corners)
    sizes = (H, W, *view.hw, *logits_BChw.shape[2:], *total_BTCHW.stride(), *logits_BChw.stride())
    grid = (-(-W // constants["L"]) * H, B)
    add_view[grid](total_BTCHW, logits_BChw, *sizes, view.flipped, **constants, **LAUNCH)


def specialisations() -> Iterator[Specialisation]:
    """Yield every way the engine calls it.

    Its totals come from `zero_total` and its logits are channels-last, so the classes of a pixel
    are neighbours: a stride of 1, which Triton makes a constant.
    """
    from kernels.tta_accumulate.triton import add_view

    temperatures, yes_no = (0.7, 0.8, 0.9, 1.0), (True, False)
    for logits, resized, align_corners in product(("*fp32", "*bf16"), yes_no, yes_no):
        constants = _constants(temperatures, 13, resized, align_corners)
        constants |= {"total_c": 1, "logits_c": 1}
        types = {"total": "*fp32", "logits": logits, "flipped": "u1"}
        yield specialise(add_view, types, constants, LAUNCH)


def _constants(
    temperatures: Sequence[float], classes: int, resized: bool, align_corners: bool
) -> dict[str, Any]:
    padded = power_of_two(classes)
    return {
        "INVERSE_T": tuple(1 / temperature for temperature in temperatures),
        "CLASSES": classes,
        "RESIZED": resized,
        "ALIGN_CORNERS": align_corners,
        "L": max(TILE // padded, 1),
        "C": padded,
    }
