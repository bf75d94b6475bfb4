"""Accumulation of one test-time view as an operation of PyTorch: Numba on the CPU, Triton on CUDA.

Axes: B batch, T temperature, C class, H W base pixels, h w strided cells, P = W C.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from kernels.gpu import power_of_two, uses_triton
from kernels.tta_accumulate import cpu
from kernels.tta_accumulate.reference import View, check

WARPS = 4
TILE = 512
"""Classes times pixels of a program: four a thread, at which nothing leaves the registers."""


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

    The mathematics is that of `kernels.tta_accumulate.reference.tta_accumulate`; nothing of the
    view's size is stored. The host does not wait for a GPU. Not differentiable.

    Args:
        total_BTCHW: (B, T, C, H, W) float32 sum of the views so far, on the CPU or CUDA; written.
            Best from `zero_total`: any other layout costs a temporary of its size on the CPU.
        logits_BChw: (B, C, h, w), floating, any layout; summed in float32.
        temperatures: T positive numbers, in the order of the second axis of `total_BTCHW`. On CUDA
            each new set compiles a kernel.
        view_hw: size of the view that the network saw, pixels.
        flipped: the view was mirrored left to right.
        align_corners: how the logits are upsampled to the view.

    Raises:
        ValueError: the shapes do not fit together, the sum is not float32, a side is empty or a
            temperature is not positive.
    """
    check(total_BTCHW, logits_BChw, temperatures, view_hw)
    _accumulate(total_BTCHW, logits_BChw, list(temperatures), list(view_hw), flipped, align_corners)


def specialisations() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], int]]:
    """What is launched: (kernel, signature, constants, warps) for each machine code.

    The engine's totals come from `zero_total` and its logits are channels-last, so the classes of
    a pixel are neighbours: a stride of 1, which Triton makes a constant.
    """
    from kernels.tta_accumulate.triton import add_view

    temperatures, yes_no = (0.7, 0.8, 0.9, 1.0), (True, False)
    for logits, resized, align_corners in product(("*fp32", "*bf16"), yes_no, yes_no):
        constants = _constants(temperatures, 13, resized, align_corners)
        constants |= {"total_c": 1, "logits_c": 1}
        integers = [name for name in add_view.arg_names if name not in constants]
        others = {"total": "*fp32", "logits": logits, "flipped": "u1"}
        yield add_view, dict.fromkeys(integers, "i32") | others, constants, WARPS


@torch.library.custom_op("roomsmith::tta_accumulate", mutates_args=("total_BTCHW",))
def _accumulate(
    total_BTCHW: Tensor,
    logits_BChw: Tensor,
    temperatures: Sequence[float],
    view_hw: Sequence[int],
    flipped: bool,
    align_corners: bool,
) -> None:
    if total_BTCHW.numel():
        work = _accumulate_triton if uses_triton(total_BTCHW) else cpu.accumulate
        view = View(view_hw, flipped, align_corners)
        work(total_BTCHW, logits_BChw.detach(), temperatures, view)


def _accumulate_triton(
    total_BTCHW: Tensor, logits_BChw: Tensor, temperatures: Sequence[float], view: View
) -> None:
    from kernels.tta_accumulate.triton import add_view

    B, _, C, H, W = total_BTCHW.shape
    constants = _constants(temperatures, C, tuple(view.hw) != (H, W), view.align_corners)
    sizes = (H, W, *view.hw, *logits_BChw.shape[2:], *total_BTCHW.stride(), *logits_BChw.stride())
    grid = (-(-W // constants["L"]) * H, B)
    add_view[grid](total_BTCHW, logits_BChw, *sizes, view.flipped, **constants, num_warps=WARPS)


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
