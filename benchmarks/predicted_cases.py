"""What `benchmarks.predict_kernels` predicts: operations at the reports' sizes, and their loops.

A new kernel needs a function that makes its call on tensors of the sizes to predict, and a row of
CASES; and, for each Triton kernel with a loop, a function from its launch to the loops' trips.
Whether the machine code has those loops is checked on every prediction.

Axes: B batch, C class, H W pixels, h w stride-4 cells, K candidates, M models, N frames.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import kernels.boundary_ce
import kernels.confusion
import kernels.crop_resize
import kernels.tta_accumulate
from benchmarks.prediction import Nest
from benchmarks.recording import Launch
from kernels.crop_resize import Encoding, Frames

Loops = Callable[[Launch], tuple[Nest, ...]]

_C = 13
"""Classes of NYU Depth v2."""
_HW = (480, 640)
"""Of a frame of NYU Depth v2."""
_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)
"""Those of the published experiments."""
_VIEWS_HW = ((224, 320), (352, 480), (480, 640), (576, 800), (704, 960))
"""A frame at the scales of the published experiments, in whole 32s."""


class Case(NamedTuple):
    """A call of an operation."""

    at: str
    """Its size, in words."""
    make: Callable[[], Callable[[], object]]
    """The call, with its tensors; see `recording.record`."""
    loops: Mapping[str, Loops] = {}
    """Of each Triton kernel that has some."""
    passes: Mapping[str, float] = {}
    """How often the bytes of a kernel's array are moved, by the array's name: once, but for what is
    both read and written, or read in part."""
    measured: str | None = None
    """The row of `benchmarks/results/kernel_speed_h100.json` that measured the same call."""


def _boundary_ce() -> Callable[[], object]:
    logits_BChw = torch.empty(4, _C, 144, 192).to(memory_format=torch.channels_last)
    logits_BChw.requires_grad_()
    label_BHW = torch.empty(4, 576, 768, dtype=torch.uint8)
    weight_C = torch.empty(_C)

    def call() -> Tensor:
        loss = kernels.boundary_ce.boundary_ce(
            logits_BChw, label_BHW, weight_C, 2.0, align_corners=True
        )
        return torch.autograd.grad(loss, logits_BChw)[0]

    return call


def _views(views_hw: tuple[tuple[int, int], ...], flips: tuple[bool, ...]) -> Callable[[], object]:
    total_BTCHW = kernels.tta_accumulate.zero_total(
        1, len(_TEMPERATURES), _C, _HW, torch.device("cpu")
    )
    logits = [
        torch.empty(1, _C, h // 4, w // 4).to(memory_format=torch.channels_last)
        for h, w in views_hw
    ]

    def call() -> None:
        for view_hw, logits_BChw in zip(views_hw, logits, strict=True):
            for flipped in flips:
                kernels.tta_accumulate.tta_accumulate(
                    total_BTCHW,
                    logits_BChw,
                    _TEMPERATURES,
                    view_hw=view_hw,
                    flipped=flipped,
                    align_corners=True,
                )

    return call


def _confusion(frames: int) -> Callable[[], object]:
    prediction_NHW = torch.empty(frames, *_HW, dtype=torch.uint8)
    label_NHW = torch.empty(frames, *_HW, dtype=torch.uint8)
    return lambda: kernels.confusion.confusion(prediction_NHW, label_NHW, _C)


def _blends(candidates: int) -> Callable[[], object]:
    half_hw = [side // 2 for side in _HW]
    prob_MBChw = [torch.empty(8, _C, *half_hw, dtype=torch.float16) for _ in range(2)]
    weight_KM = torch.empty(candidates, 2)
    label_BHW = torch.empty(8, *_HW, dtype=torch.uint8)
    return lambda: kernels.confusion.blend_confusion(prob_MBChw, weight_KM, label_BHW)


def _crops() -> Callable[[], object]:
    batch, pixels = 4, 4 * _HW[0] * _HW[1]
    frames = Frames(
        torch.empty(pixels, 3, dtype=torch.uint8),
        torch.empty(pixels, dtype=torch.uint16),
        torch.empty(pixels, dtype=torch.uint8),
        torch.empty(batch, dtype=torch.int64),
        torch.empty(batch, 2, dtype=torch.int64),
    )
    draw_B8 = torch.empty(batch, 8, dtype=torch.float64)
    encoding = Encoding((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), (0.71, 10.0), 3)
    return lambda: kernels.crop_resize.crop_resize(frames, draw_B8, (576, 768), encoding)


def _sweep_loops(launch: Launch) -> tuple[Nest, ...]:
    """Of `boundary_ce_sweep`: rows of cells, rows of their pixels, pixels of the widest lane."""
    asked = launch.arguments
    h, w, stride, strip, lanes = (int(asked[k]) for k in ("h", "w", "stride", "STRIP", "LANES"))

    def first(cell: int, cells: int) -> int:
        """The first pixel that is not before a cell, with aligned corners."""
        last = max(cells - 1, 1)
        return min(-(-max(cell, 0) * (cells * stride - 1) // last), cells * stride)

    def pixels(cell: int, cells: int) -> int:
        return first(cell + 1, cells) - first(cell, cells) if cell < cells else 0

    tops = range(0, h, strip)
    rows = [y for top in tops for y in range(top - 1, min(top + strip, h))]
    lefts = range(0, w, lanes - 1)
    widest = [max(pixels(left - 1 + k, w) for k in range(lanes)) for left in lefts]
    across = Nest(sum(widest) / len(widest))
    down = Nest(sum(pixels(y, h) for y in rows) / len(rows), (across,))
    return (Nest(len(rows) / len(tops), (down,)),)


def _turns(tiles: int, launch: Launch, inside: tuple[Nest, ...] = ()) -> tuple[Nest, ...]:
    """Programs take turns at tiles."""
    return (Nest(tiles / launch.programs, inside),)


def _pair_loops(launch: Launch) -> tuple[Nest, ...]:
    """Of `count_pairs`."""
    return _turns(-(-launch.arguments["n"] // launch.arguments["L"]), launch)


def _blend_loops(launch: Launch) -> tuple[Nest, ...]:
    """Of `count_blends`, in every tile of which some pixel has models that disagree."""
    asked = launch.arguments
    tiles = asked["B"] * asked["H"] * -(-asked["W"] // asked["L"])
    # Of one candidate Triton makes a constant, and no loop.
    return _turns(tiles, launch, (Nest(asked["K"]),) if asked["K"] > 1 else ())


_SWEEP: Mapping[str, Loops] = {"boundary_ce_sweep": _sweep_loops}
_COUNT: Mapping[str, Loops] = {"count_pairs": _pair_loops}
_BLEND: Mapping[str, Loops] = {"count_blends": _blend_loops}
_ADDED = {"total": 2.0}
_UNDER_CROP = {"image": 0.79, "depth": 0.79, "label": 0.79}
"""The part of a frame that a crop of 576 x 768 of 648 x 864 pixels shows."""

CASES: dict[str, Case] = {
    "boundary_ce": Case(
        "batch 4, 144x192 -> 576x768, forward + backward",
        _boundary_ce,
        loops=_SWEEP,
        measured="boundary_ce",
    ),
    "tta_accumulate": Case(
        "a view of 576x800, 4 temperatures",
        partial(_views, _VIEWS_HW[3:4], (True,)),
        passes=_ADDED,
        measured="tta_accumulate",
    ),
    "tta_accumulate_10": Case(
        "ten views of a frame, 4 temperatures",
        partial(_views, _VIEWS_HW, (False, True)),
        passes=_ADDED,
    ),
    "confusion": Case("24.3 M pixels", partial(_confusion, 79), loops=_COUNT, measured="confusion"),
    "confusion_3M": Case("3.1 M pixels", partial(_confusion, 10), loops=_COUNT),
    "blend_1": Case("8 frames, two stores at half scale", partial(_blends, 1), loops=_BLEND),
    "blend_64": Case("the same, 64 weights", partial(_blends, 64), loops=_BLEND),
    "crop_resize": Case("4 frames to 576x768", _crops, passes=_UNDER_CROP, measured="crop_resize"),
}
"""By name; what several calls show of one operation stands side by side."""
