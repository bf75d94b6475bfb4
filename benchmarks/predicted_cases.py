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
from torch._subclasses.fake_tensor import unset_fake_temporarily

import kernels.boundary_ce
import kernels.confusion
import kernels.crop_resize
import kernels.depthwise_norm
import kernels.group_norm_relu
import kernels.scaled_weight
import kernels.tta_accumulate
from benchmarks.prediction import Nest
from benchmarks.recording import Launch
from kernels.crop_resize import Encoding, Frames
from kernels.group_norm_relu import GroupNorm
from kernels.tta_accumulate import View

Loops = Callable[[Launch], tuple[Nest, ...]]

_C = 13
"""Classes of NYU Depth v2."""
_HW = (480, 640)
"""Of a frame of NYU Depth v2."""
_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)
"""Those of the published experiments."""
_STAGES = {128: (144, 192), 256: (72, 96), 512: (36, 48), 1024: (18, 24)}
"""Channels of ConvNeXt-B's stages and their cells at 576 x 768."""
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
    # A row's pixels lie side by side in `zero_total` of a GPU.
    total_BTCHW = torch.empty(1, len(_TEMPERATURES), _C, *_HW)
    views = [View(hw, flipped, align_corners=True) for hw in views_hw for flipped in flips]
    logits = [torch.empty(1, _C, h // 4, w // 4) for (h, w), *_ in views]
    add = kernels.tta_accumulate.tta_accumulate
    return lambda: add(total_BTCHW, logits, _TEMPERATURES, views)


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


def _crops(dtype: torch.dtype) -> Callable[[], object]:
    batch, pixels = 4, 4 * _HW[0] * _HW[1]
    with unset_fake_temporarily():  # the host's, which makes tables of them
        offset_N = torch.arange(batch) * _HW[0] * _HW[1]
        hw_N2 = torch.tensor([_HW] * batch)
        # Sample, top, left, height, width, mirrored, contrast, brightness.
        draw_B8 = torch.tensor([[n, 30.0, 40.0, 427.0, 569.0, n % 2, 1.0, 0.0] for n in range(4)])
        draw_B8 = draw_B8.to(torch.float64)
    frames = Frames(
        torch.empty(pixels, 3, dtype=torch.uint8),
        torch.empty(pixels, dtype=torch.uint16),
        torch.empty(pixels, dtype=torch.uint8),
        offset_N,
        hw_N2,
    )
    encoding = Encoding((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), (0.71, 10.0), 3)
    crop = kernels.crop_resize.crop_resize
    return lambda: crop(frames, draw_B8, (576, 768), encoding, dtype)


def _block(channels: int, hw: tuple[int, int]) -> Callable[[], object]:
    """How a block of ConvNeXt-B begins, forward and backward, with its residual, at batch 4."""
    x_BCHW = torch.empty(4, channels, *hw, dtype=torch.bfloat16)
    x_BCHW = x_BCHW.to(memory_format=torch.channels_last).requires_grad_()
    taps = torch.empty(channels, 1, 7, 7, requires_grad=True)
    bias_C, gamma_C, beta_C = (torch.empty(channels, requires_grad=True) for _ in range(3))
    begin = kernels.depthwise_norm.depthwise_norm_with_residual

    def call() -> object:
        results = begin(x_BCHW, taps, bias_C, gamma_C, beta_C, 1e-6)
        wanted = (x_BCHW, taps, bias_C, gamma_C, beta_C)
        return torch.autograd.grad(results, wanted, [torch.empty_like(r) for r in results])

    return call


def _fpn_norm(hw: tuple[int, int], doubled: bool) -> Callable[[], object]:
    """A norm of the FPN, forward and backward, at batch 4."""
    x_BChw = torch.empty(4, 128, *hw, dtype=torch.bfloat16)
    x_BChw = x_BChw.to(memory_format=torch.channels_last).requires_grad_()
    weight_C, bias_C = (torch.empty(128, requires_grad=True) for _ in range(2))
    norm = GroupNorm(weight_C, bias_C, 32, 1e-5)

    def call() -> object:
        y_BCHW = kernels.group_norm_relu.group_norm_relu(x_BChw, norm, doubled=doubled)
        grad_BCHW = torch.empty_like(y_BCHW, memory_format=torch.channels_last)
        return torch.autograd.grad(y_BCHW, (x_BChw, weight_C, bias_C), grad_BCHW)

    return call


def _layer_scale(channels: int) -> Callable[[], object]:
    """The second weights of a block's MLP and their scale, forward and backward."""
    sizes = ((channels, 4 * channels), (channels,), (channels,))
    weight_CD, bias_C, gamma_C = (torch.empty(size, requires_grad=True) for size in sizes)
    scale = kernels.scaled_weight.scaled_weight

    def call() -> object:
        made = scale(weight_CD, bias_C, gamma_C, torch.bfloat16)
        grads = [torch.empty_like(part) for part in made]
        return torch.autograd.grad(made, (weight_CD, bias_C, gamma_C), grads)

    return call


def _sweep_loops(launch: Launch) -> tuple[Nest, ...]:
    """Of `boundary_ce_sweep`: rows of cells, rows of their pixels, pixels of the widest lane.

    Logits are small enough for the second, shorter of the two innermost loops. The last program
    alone adds up what all have stored.
    """
    asked = launch.arguments
    h, w, stride, strip, lanes = (int(asked[k]) for k in ("h", "w", "stride", "STRIP", "LANES"))

    def first(cell: int, cells: int) -> int:
        """The first pixel of a cell, with aligned corners."""
        last = max(cells - 1, 1)
        return -(-cell * (cells * stride - 1) // last) if cell < cells else cells * stride

    def pixels(cell: int, cells: int) -> int:
        return first(cell + 1, cells) - first(cell, cells) if cell < cells else 0

    strips, tiles = -(-h // strip), -(-w // lanes)
    widest = [max(pixels(x * lanes + k, w) for k in range(lanes)) for x in range(tiles)]
    across = sum(widest) / len(widest)
    down = sum(pixels(y, h) for y in range(h)) / (strips * strip)
    rows = Nest(strip, (Nest(down, (Nest(0.0), Nest(across))),))
    sums = (asked["tasks"], asked["tasks"], launch.programs)
    return (rows, *(Nest(-(-count // 256) / launch.programs) for count in sums))


def _view_loops(launch: Launch) -> tuple[Nest, ...]:
    """Of `add_views`: corners of views."""
    return (Nest(launch.arguments["corners"]),)


def _walk_loops(launch: Launch) -> tuple[Nest, ...]:
    """Of `walk_blends`, every warp of which has a pixel whose winner changes once.

    Of two trained networks' stores two warps in five have one.
    """
    asked = launch.arguments
    runs = asked["B"] * asked["H"] * -(-asked["W"] // asked["L"])
    # Of one candidate there is nothing to compare with the one before.
    inside = (Nest(1.0), Nest(0.0)) if asked["K"] > 1 else (Nest(0.0),)
    return (Nest(runs / launch.programs, inside),)


def _run_loops(launch: Launch) -> tuple[Nest, ...]:
    """Of the kernels of `group_norm_relu` that go over a run of cells."""
    return (Nest(-(-launch.arguments["run"] // launch.arguments["L"])),)


def _tap_rows(launch: Launch) -> tuple[Nest, ...]:
    """Of the convolution: the seven rows of taps."""
    del launch
    return (Nest(7),)


def _norm_loops(launch: Launch) -> tuple[Nest, ...]:
    """Of `normalise_backward`: pixels in turns."""
    asked = launch.arguments
    return (Nest(-(-asked["N"] // asked["PIXELS"]) / launch.programs),)


def _step_loops(launch: Launch) -> tuple[Nest, ...]:
    """Of `convolve_backward`: rows of a program."""
    return (Nest(launch.arguments["steps"]),)


_RUNS: Mapping[str, Loops] = dict.fromkeys(
    ("run_moments", "normalise", "normalise_doubled", "run_gradients", "input_gradient"), _run_loops
)
_BLOCK: Mapping[str, Loops] = {
    "convolve_and_normalise": _tap_rows,
    "normalise_backward": _norm_loops,
    "convolve_backward": _step_loops,
}
_ADDED = {"total": 2.0}
_UNDER_CROP = {"image": 0.79, "depth": 0.79, "label": 0.79}
"""The part of a frame that a crop of 576 x 768 of 648 x 864 pixels shows."""

CASES: dict[str, Case] = {
    "boundary_ce": Case(
        "batch 4, 144x192 -> 576x768, forward + backward",
        _boundary_ce,
        loops={"boundary_ce_sweep": _sweep_loops},
        measured="boundary_ce",
    ),
    "tta_accumulate": Case(
        "ten views of a frame, 4 temperatures",
        partial(_views, _VIEWS_HW, (False, True)),
        loops={"add_views": _view_loops},
        passes=_ADDED,
    ),
    "confusion": Case("24.3 M pixels", partial(_confusion, 79), measured="confusion"),
    "confusion_3M": Case("3.1 M pixels", partial(_confusion, 10)),
    "blend_1": Case(
        "8 frames, two stores at half scale",
        partial(_blends, 1),
        loops={"walk_blends": _walk_loops},
    ),
    "blend_64": Case(
        "the same, 64 weights", partial(_blends, 64), loops={"walk_blends": _walk_loops}
    ),
    "crop_resize": Case(
        "4 frames to 576x768",
        partial(_crops, torch.float32),
        passes=_UNDER_CROP,
        measured="crop_resize",
    ),
    "crop_resize_bf16": Case(
        "the same, in bfloat16", partial(_crops, torch.bfloat16), passes=_UNDER_CROP
    ),
    **{
        f"depthwise_norm_{channels}": Case(
            f"{channels} channels of {h}x{w} with a residual, forward + backward",
            partial(_block, channels, (h, w)),
            loops=_BLOCK,
        )
        for channels, (h, w) in _STAGES.items()
    },
    "group_norm_relu": Case(
        "128 channels of 144x192, forward + backward",
        partial(_fpn_norm, (144, 192), False),
        loops=_RUNS,
    ),
    "group_norm_relu_x2": Case(
        "128 channels of 36x48 to 72x96, forward + backward",
        partial(_fpn_norm, (36, 48), True),
        loops=_RUNS,
    ),
    "scaled_weight": Case("512 x 2048 weights, forward + backward", partial(_layer_scale, 512)),
}
"""By name; what several calls show of one operation stands side by side."""
