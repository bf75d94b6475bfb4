"""How the Triton kernel of this folder is launched: tile, grid and constants.

Axes: as in op.py.
"""

from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from kernels.boundary_ce.reference import Weights
from kernels.gpu import capability, power_of_two

THREADS = 128
"""Of a block: four warps."""
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
    constants = tile_constants(C, packed, align_corners, weights.ignored_edges, gradient)
    grid = (-(-w // (constants["LANES"] - 1)), -(-h // STRIP), B)
    numerator = slope.new_empty(grid[0] * grid[1] * B)
    count_2 = slope.new_empty((len(numerator), 2), dtype=torch.int32)
    if B:
        weight_2C = torch.stack((weights.class_C, weights.boundary * weights.class_C))
        arrays = (logits_BChw, slope, label_BHW, weight_2C, numerator, count_2)
        sizes = (h, w, label_BHW.shape[1] // h, *logits_BChw.stride())
        boundary_ce_sweep[grid](*arrays, *sizes, **constants, **options(capability(logits_BChw)))
    counted, edges = count_2.sum(0, dtype=torch.float64).unbind()
    return numerator.sum(dtype=torch.float64), counted + (weights.boundary - 1) * edges


def options(architecture: tuple[int, int]) -> dict[str, int]:
    """Warps of a block and registers of a thread, for a GPU of that compute capability.

    With 128 registers four blocks fit a multiprocessor; left to itself ptxas aims at that too, and
    spills. What Triton made for capability 8 before 3.8 needs more: there three blocks fit.
    """
    import triton

    spills = architecture[0] == 8 and TorchVersion(triton.__version__) < "3.8"
    return {"num_warps": THREADS // 32, "maxnreg": 168 if spills else 128}


def tile_constants(
    classes: int, packed: bool, align_corners: bool, ignored_edges: bool, gradient: bool
) -> dict[str, Any]:
    """Of `boundary_ce_sweep`; `packed` only if the classes fill their threads."""
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
