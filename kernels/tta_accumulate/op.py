"""Accumulation of one test-time view as an operation of PyTorch: Numba on the CPU, Triton on CUDA.

Axes: B batch, T temperature, C class, H W base pixels, h w strided cells, P = W C.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.threads import cpu_threads
from kernels.tta_accumulate.reference import check

WARPS = 4
TILE = 512
"""Classes times pixels of a program: four a thread, at which nothing leaves the registers."""

_POINTER = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}


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


def uses_triton(tensor: Tensor) -> bool:
    """Triton runs what is on a GPU, Numba the rest."""
    return tensor.is_cuda


def specialisations() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], int]]:
    """What is launched: (kernel, signature, constants, warps) for each machine code.

    The engine's totals come from `zero_total` and its logits are channels-last, so the classes of
    a pixel are neighbours: a stride of 1, which Triton makes a constant.
    """
    from kernels.tta_accumulate.triton import add_view

    temperatures = (0.7, 0.8, 0.9, 1.0)
    for dtype in (torch.float32, torch.bfloat16):
        for resized in (True, False):
            for align_corners in (True, False):
                constants = _constants(temperatures, 13, resized, align_corners)
                constants |= {"total_c": 1, "logits_c": 1}
                pointers = {"total": "*fp32", "logits": _POINTER[dtype]}
                integers = [name for name in add_view.arg_names if name not in constants]
                signature = dict.fromkeys(integers, "i32") | pointers | {"flipped": "u1"}
                yield add_view, signature, constants, WARPS


@torch.library.custom_op("roomsmith::tta_accumulate", mutates_args=("total_BTCHW",))
def _accumulate(
    total_BTCHW: Tensor,
    logits_BChw: Tensor,
    temperatures: Sequence[float],
    view_hw: Sequence[int],
    flipped: bool,
    align_corners: bool,
) -> None:
    if total_BTCHW.numel() == 0:
        return
    work = _accumulate_triton if uses_triton(total_BTCHW) else _accumulate_numba
    work(total_BTCHW, logits_BChw.detach(), temperatures, view_hw, flipped, align_corners)


def _accumulate_numba(
    total_BTCHW: Tensor,
    logits_BChw: Tensor,
    temperatures: Sequence[float],
    view_hw: Sequence[int],
    flipped: bool,
    align_corners: bool,
) -> None:
    from kernels.tta_accumulate import cpu

    B, T, C, H, W = total_BTCHW.shape
    total_TBHWC = total_BTCHW.permute(1, 0, 3, 4, 2)
    in_order = total_TBHWC.is_contiguous()
    sum_TBHWC = total_TBHWC if in_order else torch.zeros(total_TBHWC.shape)
    logits_BChw = logits_BChw.to(torch.float32)  # NumPy has no bfloat16
    strides_BChw = logits_BChw.stride()
    last = sum((n - 1) * step for n, step in zip(logits_BChw.shape, strides_BChw, strict=True))
    with cpu_threads(torch.get_num_threads()):
        cpu.accumulate(
            sum_TBHWC.view(T, B, H, W * C).numpy(),
            logits_BChw.as_strided((last + 1,), (1,)).numpy(),
            strides_BChw,
            (logits_BChw.shape[2], logits_BChw.shape[3]),
            np.array(temperatures, np.float32),
            C,
            (view_hw[0], view_hw[1]),
            flipped=flipped,
            align_corners=align_corners,
        )
    if not in_order:
        total_TBHWC += sum_TBHWC


def _accumulate_triton(
    total_BTCHW: Tensor,
    logits_BChw: Tensor,
    temperatures: Sequence[float],
    view_hw: Sequence[int],
    flipped: bool,
    align_corners: bool,
) -> None:
    from kernels.tta_accumulate.triton import add_view

    B, _, C, H, W = total_BTCHW.shape
    resized = tuple(view_hw) != (H, W)
    constants = _constants(temperatures, C, resized, align_corners)
    add_view[(-(-W // constants["L"]) * H, B)](
        total_BTCHW,
        logits_BChw,
        H,
        W,
        *view_hw,
        *logits_BChw.shape[2:],
        *total_BTCHW.stride(),
        *logits_BChw.stride(),
        flipped,
        **constants,
        num_warps=WARPS,
    )


def _constants(
    temperatures: Sequence[float], classes: int, resized: bool, align_corners: bool
) -> dict[str, Any]:
    padded = 1 << (classes - 1).bit_length()
    return {
        "INVERSE_T": tuple(1 / temperature for temperature in temperatures),
        "CLASSES": classes,
        "RESIZED": resized,
        "ALIGN_CORNERS": align_corners,
        "L": max(TILE // padded, 1),
        "C": padded,
    }
