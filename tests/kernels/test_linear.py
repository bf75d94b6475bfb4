"""linear against float64 and against the layer under autocast, and as part of PyTorch."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear import reference

Form = Callable[..., Tensor]
NAMES = ("y", "grad x", "grad weight", "grad bias")


@pytest.fixture
def op(operation: Callable[[str, str], ModuleType]) -> ModuleType:
    return operation("linear", "triton")


@pytest.fixture
def inputs(device_of: Callable[[str], torch.device]) -> list[Tensor]:
    """Input of 35 rows on two axes, so that sums have something to round; weights and bias."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((5, 7, 6), (3, 6), (3,))
    parts = [torch.randn(size, generator=generator) for size in sizes]
    parts[0] = parts[0].bfloat16().float()
    return [part.to(device_of("triton")).requires_grad_() for part in parts]


def outcome(form: Form, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """In the order of NAMES, for a gradient that bfloat16 holds."""
    y = form(*inputs, dtype)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(y)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def errors(form: Form, inputs: list[Tensor], dtype: torch.dtype) -> list[float]:
    """Relative L2 distance of each outcome from the formula in float64."""
    exact = [part.detach().double().requires_grad_() for part in inputs]
    truth = outcome(reference.linear, exact, torch.float64)
    found = outcome(form, inputs, dtype)
    return [
        float((one.double() - true).norm() / true.norm())
        for one, true in zip(found, truth, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_no_further_from_float64_than_autocasts_layer(
    op: ModuleType, inputs: list[Tensor], dtype: torch.dtype
) -> None:
    def autocasts(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            return F.linear(x, weight, bias)

    ours, theirs = errors(op.linear, inputs, dtype), errors(autocasts, inputs, dtype)
    assert all(one <= other for one, other in zip(ours, theirs, strict=True)), (ours, theirs)
    # Sums of 35 products of two numbers of 8 bits, not rounded to 8 bits.
    assert max(ours[2:]) < 1e-6


def test_values_and_the_inputs_gradient_are_autocasts_to_the_byte(
    op: ModuleType, inputs: list[Tensor]
) -> None:
    pair = (outcome(form, inputs, torch.bfloat16) for form in (op.linear, reference.linear))
    ours, theirs = pair
    assert all(torch.equal(ours[k], theirs[k]) for k in (0, 1))
    assert [part.dtype for part in ours[1:]] == [torch.float32] * 3


def test_off_the_gpu_all_is_autocasts_to_the_byte(
    operation: Callable[[str, str], ModuleType], inputs: list[Tensor]
) -> None:
    module = operation("linear", "cpu")
    pair = (outcome(form, inputs, torch.bfloat16) for form in (module.linear, reference.linear))
    assert all(torch.equal(*both) for both in zip(*pair, strict=True))


def test_its_gradients_are_the_slopes_of_its_values(op: ModuleType, inputs: list[Tensor]) -> None:
    exact = tuple(part.detach().double().requires_grad_() for part in inputs)
    assert torch.autograd.gradcheck(lambda *given: op.linear(*given, torch.float64), exact)


def test_an_input_without_a_gradient_gets_none_and_no_rows_none(
    op: ModuleType, inputs: list[Tensor]
) -> None:
    x, *parameters = inputs
    for rows in (x.detach(), x.detach()[:0]):
        y = op.linear(rows, *parameters, torch.bfloat16)
        y.sum().backward()
    expected = x.detach().sum((0, 1)).expand(3, 6)
    torch.testing.assert_close(parameters[0].grad, expected)


def test_compiled_without_a_break_it_is_the_same(op: ModuleType, inputs: list[Tensor]) -> None:
    compiled = torch.compile(op.linear, fullgraph=True, backend="aot_eager")
    pair = (outcome(form, inputs, torch.bfloat16) for form in (op.linear, compiled))
    assert all(torch.equal(*both) for both in zip(*pair, strict=True))


def test_the_gradient_is_registered_as_torch_wants_it(op: ModuleType, inputs: list[Tensor]) -> None:
    del op
    grad_ND, x_NC = (part.detach().bfloat16().flatten(0, -2) for part in (inputs[0], inputs[1]))
    grad_ND = grad_ND[: len(x_NC)]
    gradient = torch.ops.roomsmith.weight_gradient.default
    assert set(torch.library.opcheck(gradient, (grad_ND, x_NC)).values()) == {"SUCCESS"}
