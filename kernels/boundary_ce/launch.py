"""How the Triton kernels of this folder are launched: tiles, grids and constants.

Axes: B batch, C class, H W pixels, h w strided cells; S strips and X tiles of cells, R rows and
L columns of one; T codes; K programs that count.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.boundary_ce.reference import Weights
from kernels.gpu import power_of_two

THREADS = 32
"""Of a program that sweeps: one warp, so that nothing waits for another."""
CLASSES_PER_THREAD = 13
"""At most: of 255 registers a class takes 13 to 15. With 16 some are spilled."""
STRIP = 4
"""Rows of cells a program sweeps. It reads one more, and writes one more of gradient; with more
rows there are too few programs for an even share of them on each multiprocessor."""
SWEEP = {"num_warps": 1}

ROWS, COLUMNS = 16, 256
"""Pixels a program encodes: one column a thread. It reads two more rows."""
ENCODE = {"num_warps": 8}

CELLS = 64
"""Columns of cells whose gradient a program finishes."""
FINISH = {"num_warps": 4}


class Swept(NamedTuple):
    """What the forward pass leaves."""

    loss: Tensor
    """Scalar, float32 or float64."""
    factor: Tensor
    """Scalar, float64: 1 / (sum of weights + epsilon)."""
    slope_BSXRCL: Tensor
    """Gradient before that factor, in blocks that `finish` puts together; empty without one."""


def sweep(
    logits_BChw: Tensor, label_BHW: Tensor, weights: Weights, align_corners: bool, gradient: bool
) -> Swept:
    """Loss, and the gradient for `finish`: two launches; does not wait for the device.

    Args:
        logits_BChw: in any layout.
        label_BHW: contiguous integers; H and W the same multiple of h and w.
        weights: what pixels weigh.
        align_corners: how the logits are upsampled.
        gradient: whether `finish` will be called.
    """
    from kernels.boundary_ce.triton import boundary_ce_sweep
    from kernels.boundary_ce.triton_ends import boundary_ce_encode

    (B, C, h, w), (H, W) = logits_BChw.shape, label_BHW.shape[1:]
    tile = tile_constants(C)
    encode_grid = (-(-W // COLUMNS), -(-H // ROWS), B)
    sweep_grid = (-(-w // tile["LANES"]), -(-h // STRIP), B)
    tasks, programs = (grid[0] * grid[1] * B for grid in (encode_grid, sweep_grid))
    out = empty(logits_BChw, gradient)
    if not B:
        return Swept(out.loss.zero_(), out.factor.zero_(), out.slope_BSXRCL)
    edge = tile["EDGE"]
    code_BHW = torch.empty_like(label_BHW, dtype=code_dtype(C))
    weight_T = out.loss.new_empty(2 * edge)
    count_2K, ticket = (code_BHW.new_empty(n, dtype=torch.int32) for n in (2 * tasks, 1))
    boundary_ce_encode[encode_grid](
        *(label_BHW, code_BHW, weights.class_C.contiguous(), weight_T, count_2K, ticket),
        *(H, W, weights.boundary),
        **encode_constants(C, weights.ignored_edges),
        **ENCODE,
    )
    boundary_ce_sweep[sweep_grid](
        *(logits_BChw, out.slope_BSXRCL, code_BHW, weight_T, out.loss.new_empty(programs)),
        *(count_2K, ticket, out.loss, out.factor),
        *(h, w, H // h, tasks, *logits_BChw.stride(), weights.boundary),
        **sweep_constants(C, align_corners, gradient),
        **SWEEP,
    )
    return out


def empty(logits_BChw: Tensor, gradient: bool) -> Swept:
    """Room for what `sweep` returns; also what it returns of tensors that hold no values."""
    B, C, h, w = logits_BChw.shape
    tile = tile_constants(C)
    blocks = (B, -(-h // STRIP), -(-w // tile["LANES"]), STRIP + 1, C, tile["LANES"] + 1)
    real = torch.promote_types(logits_BChw.dtype, torch.float32)
    return Swept(
        logits_BChw.new_empty((), dtype=real),
        logits_BChw.new_empty((), dtype=torch.float64),
        logits_BChw.new_empty(blocks if gradient else (0,), dtype=real),
    )


def finish(swept: tuple[Tensor, Tensor], grad_loss: Tensor, gradient_BChw: Tensor) -> None:
    """Write the gradient of the logits, in their layout and dtype: one launch.

    Args:
        swept: factor and slope.
        grad_loss: scalar, the gradient of the loss.
        gradient_BChw: written.
    """
    from kernels.boundary_ce.triton_ends import boundary_ce_finish

    factor, slope_BSXRCL = swept
    B, C, h, w = gradient_BChw.shape
    if B:
        boundary_ce_finish[(-(-w // CELLS), h, B)](
            *(slope_BSXRCL, factor, grad_loss, gradient_BChw, h, w, *gradient_BChw.stride()),
            **finish_constants(C),
            **FINISH,
        )


def code_dtype(classes: int) -> torch.dtype:
    """What holds the code of a pixel: a byte up to 127 classes."""
    return torch.uint8 if power_of_two(classes + 1) <= 128 else torch.int16


def tile_constants(classes: int) -> dict[str, int]:
    """Threads a lane and lanes a program; what tells codes at an edge from the others."""
    threads = power_of_two(-(-classes // CLASSES_PER_THREAD))
    lanes = max(THREADS // threads, 1)
    return {"C": classes, "Q": threads, "LANES": lanes, "EDGE": power_of_two(classes + 1)}


def encode_constants(classes: int, ignored_edges: bool) -> dict[str, Any]:
    """Of `boundary_ce_encode`."""
    edge = tile_constants(classes)["EDGE"]
    tile = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    return {"C": classes, "EDGE": edge, **tile, "IGNORED_EDGES": ignored_edges}


def sweep_constants(classes: int, align_corners: bool, gradient: bool) -> dict[str, Any]:
    """Of `boundary_ce_sweep`."""
    tile = {**tile_constants(classes), "STRIP": STRIP}
    return {**tile, "ALIGN_CORNERS": align_corners, "GRADIENT": gradient}


def finish_constants(classes: int) -> dict[str, Any]:
    """Of `boundary_ce_finish`."""
    tile = {"COLUMNS": CELLS, "LANES": tile_constants(classes)["LANES"], "STRIP": STRIP}
    return {"C": classes, "P": power_of_two(classes), **tile}
