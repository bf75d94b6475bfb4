"""Batch norms in training against PyTorch's own bytes and against float64."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.batch_norm import BatchNorm, batch_norm_clamp, reference

EPS, MOMENTUM = 1e-3, 0.01
INF = math.inf
BOUNDS = [(-INF, INF), (0.0, INF), (0.0, 6.0)]

# One row of values a thread; more than a task walks down; channels of one, three and nine vectors
# of eight; one image; one pixel.
SHAPES = [(2, 8, 1, 2), (2, 24, 5, 7), (1, 72, 9, 4), (40, 16, 1, 1), (3, 32, 17, 3)]

X86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
"""Whether PyTorch's loops are those whose rounding ours have."""


class Step(NamedTuple):
    """What a layer gives in training."""

    y: Tensor
    grad_x: Tensor
    grad_weight: Tensor
    grad_bias: Tensor
    mean: Tensor
    variance: Tensor


def step_of(
    forward: Callable[..., Tensor],
    shape: tuple[int, ...],
    bounds: tuple[float, float],
    dtype: torch.dtype = torch.float32,
    numbers: torch.dtype = torch.float32,
    slopes: torch.memory_format = torch.channels_last,
) -> Step:
    """One step of a layer on noise, the same for each implementation."""
    generator = torch.Generator().manual_seed(sum(shape))
    x, slope = (torch.randn(shape, generator=generator) * 3 + 1 for _ in range(2))
    weight, bias, mean = (torch.randn(shape[1], generator=generator) for _ in range(3))
    x = x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    slope = slope.to(dtype).contiguous(memory_format=slopes)
    weight, bias = (each.to(numbers).requires_grad_() for each in (weight, 2 * bias))
    running = mean.to(numbers), mean.abs().to(numbers)
    y = forward(x, BatchNorm(weight, bias, *running, MOMENTUM, EPS), *bounds)
    of_x, of_weight, of_bias = torch.autograd.grad(y, (x, weight, bias), slope)
    return Step(y.detach(), of_x, of_weight, of_bias, *running)


def unit(channels: int) -> BatchNorm:
    """A layer that only normalises."""
    one, zero = torch.ones(channels), torch.zeros(channels)
    return BatchNorm(one, zero, zero.clone(), one.clone(), MOMENTUM, EPS)


def in_float64(x: Tensor, norm: BatchNorm, low: float, high: float) -> Tensor:
    running = norm.mean_C, norm.variance_C
    y = F.batch_norm(x, *running, norm.weight_C, norm.bias_C, True, norm.momentum, norm.eps)
    return F.hardtanh(y, low, high)


@pytest.fixture(params=[1, 2, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """The operation, which must not go over to the reference."""

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the reference was run")

    monkeypatch.setattr(reference, "batch_norm_clamp", refuse)
    return batch_norm_clamp


REFERENCE = reference.batch_norm_clamp


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_has_the_bytes_of_pytorch(
    ours: Callable[..., Tensor], shape: tuple[int, ...], bounds: tuple[float, float]
) -> None:
    found, expected = step_of(ours, shape, bounds), step_of(REFERENCE, shape, bounds)
    for name, value in found._asdict().items():
        if X86:
            assert torch.equal(value, getattr(expected, name)), name
        torch.testing.assert_close(value, getattr(expected, name))
    assert found.y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_it_errs_no_more_than_twice_as_much_as_pytorch(
    ours: Callable[..., Tensor], shape: tuple[int, ...], bounds: tuple[float, float]
) -> None:
    found, expected = step_of(ours, shape, bounds), step_of(REFERENCE, shape, bounds)
    truth = step_of(in_float64, shape, bounds, torch.float64, torch.float64)
    for name, value in truth._asdict().items():
        allowed = 2 * (getattr(expected, name) - value).abs().max()
        assert (getattr(found, name) - value).abs().max() <= allowed + 1e-6, name


@pytest.mark.parametrize("bounds", BOUNDS)
def test_bfloat16_is_rounded_once(ours: Callable[..., Tensor], bounds: tuple[float, float]) -> None:
    low = torch.bfloat16
    found = step_of(ours, (4, 24, 9, 7), bounds, low)
    wide = step_of(lambda x, *given: ours(x.float(), *given).to(low), (4, 24, 9, 7), bounds, low)
    for name, value in found._asdict().items():
        assert torch.equal(value, getattr(wide, name)), name


def test_numbers_between_two_of_bfloat16_go_to_the_even_one(
    ours: Callable[..., Tensor],
) -> None:
    shape = (1, 8, 16, 16)
    exact = step_of(ours, shape, (-INF, INF)).y
    x = exact.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    low, wide = ours(x, unit(8), -INF, INF), ours(x.float(), unit(8), -INF, INF)
    assert torch.equal(low, wide.to(torch.bfloat16))


def test_the_gradient_is_0_at_both_bounds(ours: Callable[..., Tensor]) -> None:
    x = torch.zeros(2, 8, 2, 2).contiguous(memory_format=torch.channels_last)
    x[0] = 1.0
    for bias, passes in ((0.0, False), (6.0, False), (3.0, True)):
        y_bias = torch.full((8,), bias, requires_grad=True)
        zero, one = torch.zeros(8), torch.ones(8)
        norm = BatchNorm(zero, y_bias, zero.clone(), one, MOMENTUM, EPS)
        (gradient,) = torch.autograd.grad(ours(x, norm, 0.0, 6.0), y_bias, torch.ones_like(x))
        assert bool(gradient.any()) == passes


def test_what_is_no_number_is_not_hidden(ours: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 1] = torch.nan
    for dtype in (torch.float32, torch.bfloat16):
        norm = unit(8)
        y = ours(x.to(dtype), norm, 0.0, 6.0)
        assert y[:, 3].isnan().all()
        assert y[:, :3].isfinite().all()
        assert norm.mean_C[3].isnan()


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((2, 7, 4, 4), torch.channels_last),
        ((2, 8, 4, 4), torch.contiguous_format),
        ((2, 8, 1, 1), torch.channels_last),
    ],
    ids=["channels", "layout", "values"],
)
def test_the_reference_is_run_where_its_bytes_are_not_ours(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(reference, "batch_norm_clamp", lambda *given: called.append(given))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x = torch.randn(shape).contiguous(memory_format=memory_format)
    batch_norm_clamp(x, unit(shape[1]), 0.0, 6.0)
    assert called


def test_what_does_not_fit_is_refused() -> None:
    x, norm = torch.randn(2, 8, 4, 4), unit(8)
    for wrong, message in (
        (x[:, :4], r"norms of .* do not fit cells \(2, 4, 4, 4\)"),
        (x.double(), "must be float32 or bfloat16"),
        (x[:1, :, :1, :1], "fewer than two values"),
    ):
        with pytest.raises(ValueError, match=message):
            batch_norm_clamp(wrong, norm, 0.0, 6.0)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_a_gradient_that_is_not_channels_last_has_pytorchs_bytes(
    ours: Callable[..., Tensor], bounds: tuple[float, float]
) -> None:
    found, expected = (
        step_of(each, (4, 32, 19, 23), bounds, slopes=torch.contiguous_format)
        for each in (ours, REFERENCE)
    )
    for name, value in found._asdict().items():
        if X86:
            assert torch.equal(value, getattr(expected, name)), name
        torch.testing.assert_close(value, getattr(expected, name))
