"""A batch norm over the rows of several processes, which are threads here: as over all in one."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.batch_norm import BatchNorm
from kernels.batch_norm.everywhere import (
    Add,
    Running,
    batch_norm_clamp_everywhere,
    batch_norm_everywhere,
)

CHANNELS, EPS, MOMENTUM = 16, 1e-3, 0.1
BOUNDS = (0.0, 6.0)
SPLITS = [(4,), (2, 2), (3, 1), (1, 1, 2)]

Norm = Callable[[Tensor, Tensor, Tensor, Running, Add], Tensor]


class Meeting:
    """Adds up what so many threads bring, as a collective does."""

    def __init__(self, size: int) -> None:
        self._barrier, self._brought = threading.Barrier(size, timeout=30), list[Tensor]()

    def add(self, total: Tensor) -> None:
        """See `Add`."""
        self._brought.append(total.clone())
        self._barrier.wait()
        total.copy_(torch.stack(self._brought).sum(dim=0))
        if self._barrier.wait() == 0:
            self._brought.clear()
        self._barrier.wait()


def plain(x: Tensor, weight: Tensor, bias: Tensor, running: Running, add: Add) -> Tensor:
    y = batch_norm_everywhere(x, weight, bias, running, EPS, add)
    return F.hardtanh(y, *BOUNDS)


def clamped(x: Tensor, weight: Tensor, bias: Tensor, running: Running, add: Add) -> Tensor:
    norm = BatchNorm(weight, bias, running.mean_C, running.variance_C, MOMENTUM, EPS)
    return batch_norm_clamp_everywhere(x, norm, *BOUNDS, add)


def make(hw: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Cells far from 0, gradient, weights, biases."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    x, grad = (draw(4, CHANNELS, *hw).to(memory_format=torch.channels_last) for _ in range(2))
    # Numbers of float32 in both.
    made = 3 * x + 20, grad, 1 + 0.1 * draw(CHANNELS), 2 + draw(CHANNELS)
    return tuple(each.float().to(dtype) for each in made)


def in_one(hw: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    """What PyTorch makes of all rows: result, gradients, running statistics."""
    x, grad, weight, bias = make(hw, dtype)
    for leaf in (x, weight, bias):
        leaf.requires_grad_()
    mean, variance = torch.zeros(CHANNELS, dtype=dtype), torch.ones(CHANNELS, dtype=dtype)
    y = F.batch_norm(x, mean, variance, weight, bias, True, MOMENTUM, EPS)
    y = F.hardtanh(y, *BOUNDS)
    torch.autograd.backward(y, grad)
    gradients = [leaf.grad for leaf in (x, weight, bias) if leaf.grad is not None]
    return [y.detach(), *gradients, mean, variance]


def in_several(
    norm: Norm, split: Sequence[int], hw: tuple[int, int], dtype: torch.dtype
) -> list[Tensor]:
    """The same of a thread a part: rows put together, gradients of weights added up."""
    meeting, (x_all, grad_all, *affine) = Meeting(len(split)), make(hw, dtype)

    def one(x: Tensor, grad: Tensor) -> list[Tensor]:
        torch.set_num_threads(1)
        leaves = [leaf.clone().requires_grad_() for leaf in (x, *affine)]
        running = Running(
            torch.zeros(CHANNELS, dtype=dtype), torch.ones(CHANNELS, dtype=dtype), MOMENTUM
        )
        y = norm(leaves[0], leaves[1], leaves[2], running, meeting.add)
        torch.autograd.backward(y, grad)
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        return [y.detach(), *gradients, running.mean_C, running.variance_C]

    with ThreadPoolExecutor(len(split)) as threads:
        parts = [*threads.map(one, *(torch.split(each, list(split)) for each in (x_all, grad_all)))]
    y, x_grad, weight_grad, bias_grad, mean, variance = zip(*parts, strict=True)
    assert all(torch.equal(mean[0], other) for other in mean), "the same in every process"
    assert all(torch.equal(variance[0], other) for other in variance)
    added = [torch.stack(grads).sum(dim=0) for grads in (weight_grad, bias_grad)]
    return [torch.cat(y), torch.cat(x_grad), *added, mean[0], variance[0]]


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("hw", [(5, 7), (1, 1)], ids=str)
def test_it_is_pytorchs_over_all_rows_in_float64(
    split: tuple[int, ...], hw: tuple[int, int]
) -> None:
    found, expected = in_several(plain, split, hw, torch.float64), in_one(hw, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", [plain, clamped])
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_in_float32_it_is_as_near(norm: Norm, split: tuple[int, ...]) -> None:
    # 20 +- 3: squares that were added up in float32 would lose three digits of the variance.
    found, expected = in_several(norm, split, (5, 7), torch.float32), in_one((5, 7), torch.float64)
    wide = [each.double() for each in found]
    torch.testing.assert_close(wide[0], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(wide[4:], expected[4:], rtol=2e-6, atol=2e-5)
    # Where a value is at a bound, rounding decides whether its gradient is 0.
    torch.testing.assert_close(wide[2:4], expected[2:4], rtol=1e-4, atol=1e-4)
    apart = (wide[1] - expected[1]).abs()
    assert float(apart.median()) < 1e-6
    assert float((apart > 1e-4).double().mean()) < 0.01


def test_what_is_added_up_is_not_the_processs_own() -> None:
    """Gradients of weights were everybody's once, in float64, and counted twice."""
    x, grad, weight, bias = make((2, 2), torch.float64)
    weight.requires_grad_()

    def double(total: Tensor) -> None:
        total.mul_(2)  # as another process with the same rows

    y = batch_norm_everywhere(x, weight, bias, None, EPS, double)
    torch.autograd.backward(y, grad)
    twice = weight.grad
    weight.grad = None
    y = F.batch_norm(x, None, None, weight, bias, True, MOMENTUM, EPS)
    torch.autograd.backward(y, grad)
    torch.testing.assert_close(twice, weight.grad)


def test_no_value_a_channel_is_refused() -> None:
    weight = torch.ones(CHANNELS)
    norm = BatchNorm(weight, weight, weight, weight, MOMENTUM, EPS)
    with pytest.raises(ValueError, match="has no value"):
        batch_norm_clamp_everywhere(torch.ones(0, CHANNELS, 2, 2), norm, *BOUNDS, lambda _: None)
