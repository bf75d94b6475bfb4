"""How the Triton kernel of this folder is launched: tile, grid and constants.

Axes: as in op.py.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernels.boundary_ce.reference import Weights
from kernels.gpu import Specialisation, power_of_two, specialise

THREADS = 128
LAUNCH = {"num_warps": THREADS // 32, "maxnreg": 128}
"""Four blocks fit a multiprocessor. Left to itself ptxas aims at that too, and spills."""
CLASSES_PER_THREAD = 4
"""More take more registers, of which a class needs 13; fewer weigh a pixel on more threads."""
FEWEST_LANES = 8
"""Of a program's lanes one does its neighbour's work again."""
STRIP = 8
"""Rows of cells a program owns; it visits one more, whose pixels its neighbour visits too."""


def sweep(
    logits_BChw: Tensor, slope: Tensor, label_BHW: Tensor, weights: Weights, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """As `cpu.sweep`, but no label is refused; does not wait for the device."""
    from kernels.boundary_ce.triton import boundary_ce_sweep

    B, C, h, w = logits_BChw.shape
    packed = C % CLASSES_PER_THREAD == 0 and logits_BChw.stride() == (h * w * C, 1, w * C, C)
    gradient = slope.numel() > 0
    constants = _constants(C, packed, align_corners, weights.ignored_edges, gradient)
    grid = (-(-w // (constants["LANES"] - 1)), -(-h // STRIP), B)
    numerator = slope.new_empty(grid[0] * grid[1] * B)
    count_2 = slope.new_empty((len(numerator), 2), dtype=torch.int32)
    if B:
        weight_2C = torch.stack((weights.class_C, weights.boundary * weights.class_C))
        arrays = (logits_BChw, slope, label_BHW, weight_2C, numerator, count_2)
        sizes = (h, w, label_BHW.shape[1] // h, *logits_BChw.stride())
        boundary_ce_sweep[grid](*arrays, *sizes, **constants, **LAUNCH)
    counted, edges = count_2.sum(0, dtype=torch.float64).unbind()
    return numerator.sum(dtype=torch.float64), counted + (weights.boundary - 1) * edges


def specialisations() -> Iterator[Specialisation]:
    """Yield every way the engine calls it, with 13 classes; and 16, read 128 bits at a time."""
    from kernels.boundary_ce.triton import boundary_ce_sweep

    arrays = {"gradient": "*fp32:16", "label": "*u8:16", "weight_2C": "*fp32:16"}
    arrays |= {"numerator": "*fp32:16", "count_2": "*i32:16"}
    for logits, classes, align_corners, ignored_edges, gradient in (
        ("*fp32:16", 13, True, False, True),
        ("*fp32:16", 13, True, False, False),
        ("*fp32:16", 13, False, True, True),
        ("*bf16:16", 13, True, False, True),
        ("*bf16:16", 13, True, True, True),
        ("*fp32:16", 16, True, False, True),
    ):
        constants = _constants(classes, classes == 16, align_corners, ignored_edges, gradient)
        yield specialise(boundary_ce_sweep, {"logits": logits, **arrays}, constants, LAUNCH)


def _constants(
    classes: int, packed: bool, align_corners: bool, ignored_edges: bool, gradient: bool
) -> dict[str, Any]:
    threads = max(power_of_two(classes), CLASSES_PER_THREAD) // CLASSES_PER_THREAD
    return {
        "C": classes,
        "R": CLASSES_PER_THREAD,
        "Q": threads,
        "LANES": max(THREADS // threads, FEWEST_LANES),
        "STRIP": STRIP,
        "PACKED": packed,
        "ALIGN_CORNERS": align_corners,
        "IGNORED_EDGES": ignored_edges,
        "GRADIENT": gradient,
    }
