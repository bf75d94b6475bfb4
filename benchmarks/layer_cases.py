"""What `benchmarks.kernel_speed` times on a CPU besides: three layers of a network, in training.

Axes: B batch, C channels, H W cells.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import kernels.batch_norm.reference
import kernels.group_norm.reference
from benchmarks.figures import Work
from benchmarks.timing import Case
from kernels.batch_norm import BatchNorm
from kernels.depthwise.cpu import weight_gradient
from kernels.group_norm import group_norm as our_group_norm

_NORM = (8, 96, 96, 128)
"""Cells of the widest layer of EfficientNet-Lite0, 8 crops of 192 x 256."""
_TAPS, _CELLS = 5, (8, 240, 24, 32)
"""Of its slowest depthwise convolution."""
_GROUPS, _LEVEL = 32, (8, 64, 48, 64)
"""Of the FPN's norm at stride 4."""


def batch_norm(device: torch.device) -> Case:
    """Forward + backward of a batch norm in training with ReLU6; all sides' running statistics."""
    x_BCHW, slope_BCHW = (_noise(_NORM, seed).to(device) for seed in (0, 1))
    C = _NORM[1]
    weight_C, bias_C = torch.ones(C), torch.zeros(C)
    inputs = [each.requires_grad_() for each in (x_BCHW, weight_C, bias_C)]

    def both(forward: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        norm = BatchNorm(weight_C, bias_C, torch.zeros(C), torch.ones(C), momentum=0.01, eps=1e-3)

        def call() -> tuple[Tensor, ...]:
            y_BCHW = forward(x_BCHW, norm, 0.0, 6.0)
            return torch.autograd.grad(y_BCHW, inputs, slope_BCHW)

        return call

    ours = both(kernels.batch_norm.batch_norm_clamp)
    sides = {"ours": ours, "eager": both(kernels.batch_norm.reference.batch_norm_clamp)}
    # Forward reads cells and writes as many, backward reads them and the slope and writes as many;
    # that sums are needed before anything is written is not counted. A value: 1 for its sum, 3 for
    # squares, 4 to normalise and cut, as many again and 4 for two sums, 7 for its gradient.
    work = Work(5 * x_BCHW.nbytes, 23 * x_BCHW.numel())
    return Case("batch_norm", sides, work, _check, device)


def depthwise(device: torch.device) -> Case:
    """The weights' gradient of a depthwise convolution of 5 x 5 taps."""
    x_BCHW, slope_BCHW = (_noise(_CELLS, seed).to(device) for seed in (0, 1))
    C, pad = _CELLS[1], _TAPS // 2
    weight_C1KK = torch.zeros(C, 1, _TAPS, _TAPS)
    geometry = [1, 1], [pad, pad], [1, 1], False, [0, 0], C

    def onednn() -> Tensor:
        given = slope_BCHW, x_BCHW, weight_C1KK, None, *geometry
        found = torch.ops.aten.convolution_backward(*given, [False, True, False])
        gradient: Tensor = found[1]
        return gradient

    ours = partial(weight_gradient, x_BCHW, slope_BCHW, _TAPS, 1, pad)
    work = Work(2 * x_BCHW.nbytes, 2 * x_BCHW.numel() * _TAPS**2)
    return Case("depthwise", {"ours": ours, "eager": onednn}, work, _check, device)


def group_norm(device: torch.device) -> Case:
    """The gradients of a group norm, of cells, weights and biases; forward both are PyTorch's."""
    x_BCHW, slope_BCHW = (_noise(_LEVEL, seed).to(device) for seed in (0, 1))
    C = _LEVEL[1]
    inputs = [each.requires_grad_() for each in (x_BCHW, torch.ones(C), torch.zeros(C))]

    def backward(forward: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        y_BCHW = forward(*inputs, _GROUPS, 1e-5)
        return lambda: torch.autograd.grad(y_BCHW, inputs, slope_BCHW, retain_graph=True)

    sides = {
        "ours": backward(our_group_norm),
        "eager": backward(kernels.group_norm.reference.group_norm),
    }
    # Reads cells and slope, and writes as many. A value: 3 for two sums, 4 for its gradient.
    work = Work(3 * x_BCHW.nbytes, 7 * x_BCHW.numel())
    return Case("group_norm", sides, work, _check, device)


LAYERS: dict[str, Callable[[torch.device], Case]] = {
    "batch_norm": batch_norm,
    "depthwise": depthwise,
    "group_norm": group_norm,
}
"""By name."""


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator)
    return noise.contiguous(memory_format=torch.channels_last)


def _check(ours: Tensor | tuple[Tensor, ...], theirs: Tensor | tuple[Tensor, ...]) -> None:
    # Of x86 the same bytes; elsewhere sums of 100,000 values in another order.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)
