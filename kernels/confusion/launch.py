"""How the Triton kernels of this folder are launched: tiles, grids and constants.

Axes: see reference.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.gpu import power_of_two

LAUNCH = {"num_warps": 4}
BLEND_LAUNCH = {**LAUNCH, "maxnreg": 128}
"""Of `count_blends`: four programs fit a multiprocessor. Left to itself Triton 3.6 spills."""

PIXELS = 4096
"""Pixels of a tile of `count_pairs`: 32 a thread, two loads of 128 bits."""

TILE = 2048
"""Classes times pixels of a tile of the others: 16 values a thread."""

LARGEST_TABLE = 4096
"""Pairs that a program counts by itself, 16 KiB of them; 63 classes make fewer."""

PROGRAMS_PER_PROCESSOR = 4
"""Programs that take turns on a multiprocessor while others wait for memory."""


def count(prediction_N: Tensor, label_N: Tensor, classes: int) -> Tensor:
    """(C, C) of contiguous uint8 (N,)."""
    from kernels.confusion.triton import count_pairs

    n = len(label_N)
    count_CC = label_N.new_zeros((classes, classes), dtype=torch.int64)
    constants = {"CLASSES": classes, "L": PIXELS, "P": table(classes)}
    programs = _programs(label_N.device, -(-n // PIXELS))
    count_pairs[(programs, 1)](prediction_N, label_N, count_CC, n, **constants, **LAUNCH)
    return count_CC


def argmax(prob_BChw: Tensor, winner_BHW: Tensor) -> None:
    """Write the winners to contiguous uint8 (B, H, W)."""
    from kernels.confusion.triton import write_winners

    B, H, W = winner_BHW.shape
    constants = {"RESIZED": prob_BChw.shape[2:] != (H, W), **tile(prob_BChw.shape[1], 1)}
    sizes = (H, W, *prob_BChw.shape[2:], *prob_BChw.stride())
    grid = (B * H * -(-W // constants["L"]),)
    write_winners[grid](prob_BChw, winner_BHW, *sizes, **constants, **LAUNCH)


def count_argmax(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """(C, C) of contiguous uint8 labels (B, H, W)."""
    from kernels.confusion.triton import count_winners

    B, H, W = label_BHW.shape
    classes = prob_BChw.shape[1]
    count_CC = label_BHW.new_zeros((classes, classes), dtype=torch.int64)
    constants = {"RESIZED": prob_BChw.shape[2:] != (H, W), "P": table(classes)} | tile(classes, 1)
    sizes = (B, H, W, *prob_BChw.shape[2:], *prob_BChw.stride())
    grid = (_programs(label_BHW.device, B * H * -(-W // constants["L"])),)
    count_winners[grid](prob_BChw, label_BHW, count_CC, *sizes, **constants, **LAUNCH)
    return count_CC


def count_blends(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    """(K, C, C) of contiguous uint8 labels (B, H, W); weights of the type that is blended in."""
    from kernels.confusion.triton import count_blends as kernel

    B, H, W = label_BHW.shape
    K, classes = len(weight_KM), prob_MBChw[0].shape[1]
    count_KCC = label_BHW.new_zeros((K, classes, classes), dtype=torch.int64)
    settled_CC = count_KCC.new_zeros((classes, classes))
    settle = (weight_KM >= 0).all() & (weight_KM.sum(dim=1) > 0).all()
    constants = blend_constants(classes, [(p.shape[2], p.shape[3]) for p in prob_MBChw])
    prob = torch.cat([prob_BChw.flatten() for prob_BChw in prob_MBChw])
    inputs = (prob, weight_KM.contiguous(), settle.to(torch.uint8), label_BHW)
    grid = (_programs(label_BHW.device, B * H * -(-W // constants["L"])),)
    kernel[grid](*inputs, settled_CC, count_KCC, B, H, W, K, **constants, **BLEND_LAUNCH)
    return count_KCC + settled_CC


def blend_constants(classes: int, hw_M: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Of `count_blends`, in which every model's tile stays in registers: more, smaller tiles."""
    sizes = tuple(side for hw in hw_M for side in hw)
    return {"SIZES": sizes, **tile(classes, max(len(hw_M), 2)), "P": table(classes)}


def tile(classes: int, models: int) -> dict[str, Any]:
    """What the kernels that read probabilities share."""
    padded = power_of_two(classes)
    pixels = max(TILE // (padded * power_of_two(models)), 1)
    return {"CLASSES": classes, "L": pixels, "C": padded}


def table(classes: int) -> int:
    """Pairs and one for the pixels that do not count, to a power of two; 0 if that is too much."""
    pairs = power_of_two(classes * classes + 1)
    return pairs if pairs <= LARGEST_TABLE else 0


def _programs(device: torch.device, tiles: int) -> int:
    """Enough to fill the GPU; in Triton's interpreter two, so that a program has several tiles."""
    if device.type != "cuda":
        return min(tiles, 2)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return min(tiles, PROGRAMS_PER_PROCESSOR * processors)
