"""What the tests of depthwise_norm compare with: its formula in float64, and eager PyTorch.

Axes: as in kernels/depthwise_norm/reference.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

EPS = 1e-6
NAMES = ("y", "grad x", "grad weight", "grad bias", "grad gamma", "grad beta")
Form = Callable[..., Tensor]


def make(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Input and the four parameters, then the gradient of y.

    Input and gradient are of `dtype`, parameters of its sums' dtype. Nothing is symmetrical, so
    that whatever is swapped, reversed or left out is seen. Deviations are about .3, not 1.
    """
    generator, C = torch.Generator().manual_seed(0), shape[1]

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    real = torch.promote_types(dtype, torch.float32)
    x_BCHW, grad_y_BCHW = (
        random(*shape).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(2)
    )
    weight_C1KK = 0.05 * random(C, 1, 7, 7)
    others = (0.1 * random(C) + 0.2, 1 + 0.3 * random(C), 0.2 * random(C))
    return [x_BCHW, *(part.to(real) for part in (weight_C1KK, *others))], grad_y_BCHW


def eager(
    x_BCHW: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    """How timm's block begins, in the dtype of x but for the norm, which autocast keeps float32."""
    dtype = x_BCHW.dtype
    u_BCHW = F.conv2d(x_BCHW, weight.to(dtype), bias.to(dtype), padding=3, groups=len(bias))
    u_BHWC = u_BCHW.permute(0, 2, 3, 1).to(gamma.dtype)
    return F.layer_norm(u_BHWC, gamma.shape, gamma, beta, eps).to(dtype).permute(0, 3, 1, 2)


def eager_sum(x_BCHW: Tensor, *others: Tensor | float) -> Tensor:
    """`eager` and twice its input: gradients that reach it in two ways, and are not the same."""
    y_BCHW: Tensor = eager(x_BCHW, *others)  # type: ignore[arg-type]
    return y_BCHW + 2 * x_BCHW


def add_twice(both: Callable[..., tuple[Tensor, Tensor]]) -> Form:
    """Of a function with a residual, what `eager_sum` is of `eager`."""

    def run(*given: Tensor | float) -> Tensor:
        y_BCHW, x_BCHW = both(*given)
        return y_BCHW + 2 * x_BCHW

    return run


def outcome(
    form: Form, inputs: list[Tensor], grad_y_BCHW: Tensor, eps: float = EPS
) -> list[Tensor]:
    """The result and the gradient of each input, in the order of NAMES."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    y_BCHW = form(*leaves, eps)
    return [y_BCHW.detach(), *torch.autograd.grad(y_BCHW, leaves, grad_y_BCHW.to(y_BCHW.device))]


def errors(
    form: Form, inputs: list[Tensor], grad_y_BCHW: Tensor, eps: float = EPS, plain: Form = eager
) -> list[float]:
    """Relative L2 distance of each outcome from the formula, `plain`, in float64."""
    exact = [tensor.cpu().double() for tensor in inputs]
    truth = outcome(plain, exact, grad_y_BCHW.double(), eps)
    found = outcome(form, inputs, grad_y_BCHW, eps)
    return [
        float((one.cpu().double() - true).norm() / true.norm().clamp_min(1e-12))
        for one, true in zip(found, truth, strict=True)
    ]


def too_far(
    form: Form, inputs: list[Tensor], grad_y_BCHW: Tensor, eps: float = EPS, plain: Form = eager
) -> list[str]:
    """Which outcomes are further from float64 than twice eager PyTorch's, in the same dtype.

    One last bit of float32 is never too far: with few values eager PyTorch may happen to be exact.
    """
    on_cpu = [tensor.cpu() for tensor in inputs]
    ours = errors(form, inputs, grad_y_BCHW, eps, plain)
    theirs = errors(plain, on_cpu, grad_y_BCHW, eps, plain)
    floor = torch.finfo(torch.float32).eps
    return [
        f"{name}: {one:.1e}, eager {other:.1e}"
        for name, one, other in zip(NAMES, ours, theirs, strict=True)
        if not one <= max(2 * other, floor)
    ]


def add_in_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's interpreter add an axis up as a GPU's threads do, by halves.

    NumPy adds all but the last axis up in one chain, whose error grows with its length: of 300
    channels in float32 it is several times eager PyTorch's.
    """
    from triton.runtime.interpreter import ReduceOps

    def add(reduction: Any, terms: Any) -> Any:
        values = np.moveaxis(terms.handle.data, reduction.axis, 0)
        while len(values) > 1:
            half = len(values) // 2
            values = values[:half] + values[half:]
        values = np.moveaxis(values, 0, reduction.axis)
        values = values if reduction.keep_dims else values.squeeze(reduction.axis)
        return reduction.to_tensor(values, terms.dtype)

    monkeypatch.setattr(ReduceOps, "sum", add)


def round_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's interpreter round to bfloat16 as a GPU does; up to 3.8 it truncates.

    Two truncations make a gradient twice as wrong as eager PyTorch's.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    unpatched = InterpreterBuilder.cast_impl

    def cast(builder: InterpreterBuilder, source: TensorHandle, target: tl.dtype) -> TensorHandle:
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return unpatched(builder, source, target)
        bits: NDArray[np.uint32] = np.ascontiguousarray(source.data).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
        return TensorHandle((rounded >> 16).astype(np.uint16), tl.bfloat16)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", cast)
