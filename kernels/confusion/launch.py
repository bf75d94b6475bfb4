"""How the Triton kernels of this folder are launched: tiles, grids and constants.

Axes: see reference.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.gpu import power_of_two

COUNT_LAUNCH = {"num_warps": 16}
LAUNCH = {"num_warps": 4}
WALK_LAUNCH = {"num_warps": 1}
"""Of `walk_blends`: a warp goes on while any of its pixels does, and waits for no other warp."""

PIXELS = 16384
"""Pixels of a tile of `count_pairs`: 32 a thread, two loads of 128 bits of both maps.

What a tile costs apart from its pixels is two barriers and an atomic addition for each pair."""

RUN = 128
"""Pixels of a row that a program of the others takes, one a thread."""

WALK_RUN = 32
"""Those of `walk_blends`, one a thread of its warp."""

LARGEST_SIDE = 64
"""Of a table that a program counts by itself: 16 KiB; 63 classes fit it."""

MOST_HELD = 128
"""Bytes of one model's classes that a thread of `walk_blends` holds: 32 registers of its two."""

AT_ONCE = 8
"""Candidates whose winners `write_blends` finds in one reading: two registers each."""

WALKS_PER_PROCESSOR = 32
"""Programs of one warp that a multiprocessor holds at most."""


def count(prediction_N: Tensor, label_N: Tensor, classes: int) -> Tensor:
    """(C, C) of contiguous uint8 (N,)."""
    count_1CC = label_N.new_zeros((1, classes, classes), dtype=torch.int64)
    _count_each(prediction_N, label_N, count_1CC)
    return count_1CC[0]


def argmax(prob_BChw: Tensor, winner_BHW: Tensor) -> None:
    """Write the winners to contiguous uint8 (B, H, W)."""
    from kernels.confusion.triton import write_winners

    B, H, W = winner_BHW.shape
    constants = {"RESIZED": prob_BChw.shape[2:] != (H, W), **run_constants(prob_BChw.shape[1])}
    sizes = (H, W, *prob_BChw.shape[2:], *prob_BChw.stride())
    grid = (B * H * -(-W // RUN),)
    write_winners[grid](prob_BChw, winner_BHW, *sizes, **constants, **LAUNCH)


def count_argmax(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """(C, C) of contiguous uint8 labels (B, H, W)."""
    winner_BHW = torch.empty_like(label_BHW)
    argmax(prob_BChw, winner_BHW)
    return count(winner_BHW, label_BHW, prob_BChw.shape[1])


def count_blends(prob_MBChw: Sequence[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    """(K, C, C) of contiguous uint8 labels (B, H, W); weights of the type that is blended in."""
    probs = [prob_BChw.contiguous() for prob_BChw in prob_MBChw]
    held = probs[0].shape[1] * weight_KM.element_size()
    count_by = _count_walking if len(probs) == 2 and held <= MOST_HELD else _count_comparing
    return count_by(probs, weight_KM, label_BHW)


def count_constants(classes: int) -> dict[str, Any]:
    """Of `count_pairs`."""
    side = power_of_two(classes + 1)
    return {"CLASSES": classes, "L": PIXELS, "SIDE": side if side <= LARGEST_SIDE else 0}


def run_constants(classes: int) -> dict[str, Any]:
    """Of `write_winners`, beside RESIZED."""
    return {"CLASSES": classes, "L": RUN}


def walk_constants(
    candidates: int, classes: int, hw_2: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Of `walk_blends`, which finds a place among the candidates by halving: so many times."""
    steps = candidates.bit_length()
    return {"SIZES": _sizes(hw_2), "CLASSES": classes, "STEPS": steps, "L": WALK_RUN}


def compare_constants(classes: int, hw_M: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Of `write_blends`."""
    return {"SIZES": _sizes(hw_M), "CLASSES": classes, "AT_ONCE": AT_ONCE, "L": RUN}


def _count_walking(probs: list[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    """Of two models: winners at the first candidate, and what changes along the others."""
    from kernels.confusion.triton_blend import walk_blends

    (B, H, W), K, classes = label_BHW.shape, len(weight_KM), probs[0].shape[1]
    total_K = weight_KM.sum(dim=1)
    proper = ((weight_KM >= 0).all() & (total_K > 0).all()).to(torch.uint8)
    share_K, order_K = torch.sort(weight_KM[:, 1] / total_K)
    candidates = (weight_KM[order_K], share_K, proper)
    winner_BHW = torch.empty_like(label_BHW)
    note_KCC = label_BHW.new_zeros((K, classes, classes), dtype=torch.int32)
    counted = (label_BHW, winner_BHW, note_KCC)
    sizes = (B, H, W, K)
    grid = (_walks(label_BHW.device, B * H * -(-W // WALK_RUN)),)
    constants = walk_constants(K, classes, [(p.shape[2], p.shape[3]) for p in probs])
    walk_blends[grid](*probs, *candidates, *counted, *sizes, **constants, **WALK_LAUNCH)
    start_CC = count(winner_BHW, label_BHW, classes)
    count_KCC = start_CC + note_KCC.cumsum(dim=0, dtype=torch.int64)
    return torch.empty_like(count_KCC).index_copy_(0, order_K, count_KCC)


def _count_comparing(probs: list[Tensor], weight_KM: Tensor, label_BHW: Tensor) -> Tensor:
    """Of any models: the winners of a few candidates at a time are written and counted."""
    from kernels.confusion.triton_blend import write_blends

    (B, H, W), K, classes = label_BHW.shape, len(weight_KM), probs[0].shape[1]
    count_KCC = label_BHW.new_zeros((K, classes, classes), dtype=torch.int64)
    winner_KBHW = label_BHW.new_empty((min(K, AT_ONCE), B, H, W))
    grid, n = (B * H * -(-W // RUN),), label_BHW.numel()
    constants = compare_constants(classes, [(p.shape[2], p.shape[3]) for p in probs])
    weight_KM = weight_KM.contiguous()
    for start in range(0, K, AT_ONCE):
        some_KM = weight_KM[start : start + AT_ONCE]
        inputs = (tuple(probs), some_KM, winner_KBHW)
        write_blends[grid](*inputs, H, W, len(some_KM), n, **constants, **LAUNCH)
        _count_each(winner_KBHW, label_BHW, count_KCC[start : start + AT_ONCE])
    return count_KCC


def _count_each(prediction_KN: Tensor, label_N: Tensor, count_KCC: Tensor) -> None:
    """Add the counts of each candidate's predictions."""
    from kernels.confusion.triton import count_pairs

    n, (K, classes, _) = label_N.numel(), count_KCC.shape
    inputs = (prediction_KN, label_N, count_KCC, n)
    count_pairs[(-(-n // PIXELS), K)](*inputs, **count_constants(classes), **COUNT_LAUNCH)


def _sizes(hw_M: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(side for hw in hw_M for side in hw)


def _walks(device: torch.device, runs: int) -> int:
    """Enough to fill the GPU; in Triton's interpreter two, so that a program has several runs."""
    if device.type != "cuda":
        return min(runs, 2)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return min(runs, WALKS_PER_PROCESSOR * processors)
