"""Gradients of a group norm against PyTorch's own bytes and against float64."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from kernels.group_norm import cpu, group_norm, reference

EPS = 1e-5
AVX = torch.backends.cpu.get_cpu_capability().startswith("AVX")
"""Whether PyTorch's loops are those whose rounding ours have."""
LAST = torch.channels_last

# Groups of one, two and four channels; below 2,048 cells and above, where runs of cells end within
# images; channels of a vector and a half; one image; a row more than a task walks down.
CASES = [
    ((1, 24, 7, 5), 24),
    ((4, 64, 9, 12), 32),
    ((2, 128, 18, 24), 32),
    ((3, 24, 17, 1), 12),
    ((3, 64, 46, 45), 32),
    ((2, 128, 48, 49), 32),
    ((1, 8, 64, 33), 8),
]


class Gradients(NamedTuple):
    """What a step leaves."""

    y: Tensor
    of_x: Tensor
    of_weight: Tensor
    of_bias: Tensor


def gradients(
    forward: Callable[..., Tensor],
    case: tuple[tuple[int, ...], int],
    dtype: torch.dtype = torch.float32,
    numbers: torch.dtype = torch.float32,
    slopes: torch.memory_format = LAST,
) -> Gradients:
    """One step on noise, the same for each implementation."""
    shape, groups = case
    generator = torch.Generator().manual_seed(sum(shape))
    x, slope = (torch.randn(shape, generator=generator) * 3 + 1 for _ in range(2))
    weight, bias = (torch.randn(shape[1], generator=generator) for _ in range(2))
    given = [x.to(torch.bfloat16).to(dtype).contiguous(memory_format=LAST)]
    given += [each.to(numbers) for each in (weight, bias)]
    for each in given:
        each.requires_grad_()
    y = forward(*given, groups, EPS)
    slope = slope.to(torch.bfloat16).to(dtype).contiguous(memory_format=slopes)
    return Gradients(y.detach(), *torch.autograd.grad(y, given, slope))


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

    monkeypatch.setattr(reference, "group_norm", refuse)
    return group_norm


REFERENCE = reference.group_norm


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_it_has_the_bytes_of_pytorch(
    ours: Callable[..., Tensor], case: tuple[tuple[int, ...], int], dtype: torch.dtype
) -> None:
    found, expected = gradients(ours, case, dtype), gradients(REFERENCE, case, dtype)
    for name, value in found._asdict().items():
        if AVX:
            assert torch.equal(value, getattr(expected, name)), name
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-2, atol=1e-2)
    assert found.of_x.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("case", CASES)
def test_it_errs_no_more_than_twice_as_much_as_pytorch(
    ours: Callable[..., Tensor], case: tuple[tuple[int, ...], int]
) -> None:
    found, expected = gradients(ours, case), gradients(REFERENCE, case)
    truth = gradients(REFERENCE, case, torch.float64, torch.float64)
    for name, value in truth._asdict().items():
        allowed = 2 * (getattr(expected, name) - value).abs().max()
        assert (getattr(found, name) - value).abs().max() <= allowed + 1e-6, name


def test_a_gradient_that_is_not_channels_last_has_pytorchs_bytes(
    ours: Callable[..., Tensor],
) -> None:
    found, expected = (
        gradients(each, CASES[1], slopes=torch.contiguous_format) for each in (ours, REFERENCE)
    )
    for name, value in found._asdict().items():
        if AVX:
            assert torch.equal(value, getattr(expected, name)), name
        torch.testing.assert_close(value, getattr(expected, name))


def test_what_is_no_number_spoils_its_group_alone(ours: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 8, 3, 3).contiguous(memory_format=LAST)
    x[0, 3, 1, 1] = torch.nan
    x.requires_grad_()
    y = ours(x, torch.ones(8), torch.zeros(8), 4, EPS)
    (of_x,) = torch.autograd.grad(y, x, torch.ones_like(x))
    spoiled = of_x.isnan().any(dim=(2, 3))
    assert spoiled[0].tolist() == [False, False, True, True, False, False, False, False]
    assert not spoiled[1].any()


def test_weights_that_are_frozen_get_no_gradient(ours: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 8, 3, 3).contiguous(memory_format=LAST).requires_grad_()
    weight = torch.ones(8)
    ours(x, weight, torch.zeros(8), 4, EPS).square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize(
    ("shape", "groups", "memory_format", "dtype"),
    [
        ((2, 12, 4, 4), 6, LAST, torch.float32),
        ((2, 64, 4, 4), 8, LAST, torch.float32),
        ((2, 24, 4, 4), 8, LAST, torch.float32),
        ((2, 8, 4, 4), 4, torch.contiguous_format, torch.float32),
        ((2, 8, 1, 1), 4, LAST, torch.float32),
        ((0, 8, 4, 4), 4, LAST, torch.float32),
        ((2, 8, 4, 4), 4, LAST, torch.float64),
    ],
    ids=["channels", "eight", "three", "layout", "cell", "no image", "dtype"],
)
def test_the_reference_is_run_where_its_bytes_are_not_ours(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    groups: int,
    memory_format: torch.memory_format,
    dtype: torch.dtype,
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(reference, "group_norm", lambda *given: called.append(given))
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=memory_format)
    group_norm(
        x, torch.ones(shape[1], dtype=dtype), torch.zeros(shape[1], dtype=dtype), groups, EPS
    )
    assert called


def test_without_gradients_it_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "backward", lambda *_: pytest.fail("ours was run"))
    x = torch.randn(2, 8, 3, 3).contiguous(memory_format=LAST)
    weight, bias = torch.ones(8), torch.zeros(8)
    with torch.no_grad():
        y = group_norm(x, weight, bias, 4, EPS)
    assert torch.equal(y, REFERENCE(x, weight, bias, 4, EPS))
