"""depthwise_norm against its formula in float64: values, gradients, sizes, dtypes."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels.depthwise_norm import launch, reference
from tests.kernels.depthwise_norm_truth import (
    EPS,
    Form,
    add_in_a_tree,
    add_twice,
    eager_sum,
    errors,
    make,
    outcome,
    round_to_nearest,
    too_far,
)

# B, C, H, W, small since Triton's interpreter takes a fifth of a second for a tile. Tiles are of 4
# rows and 8 columns, of 16 in types of two bytes where those divide the width; blocks hold a power
# of two of channels, warps 128 or, in the norm's backward pass, 256.
SHAPES = {
    "one pixel": (1, 8, 1, 1),
    "prime sides and channels": (1, 7, 5, 11),
    "a wide tile, channels beyond a block": (1, 130, 2, 16),
    "three wide tiles": (1, 16, 1, 48),
    "three narrow tiles": (1, 8, 2, 24),
    "two parts of a pixel": (1, 320, 1, 2),
    "two images": (2, 24, 3, 8),
}
FEW = {
    "prime sides and channels": (torch.float32, torch.bfloat16),
    "a wide tile, channels beyond a block": (torch.bfloat16,),
    "three wide tiles": (torch.float16,),
    "two parts of a pixel": (torch.float32,),
}
# Others than these in the full form alone.
TYPED = [
    pytest.param(shape, dtype, marks=[] if dtype in always else [pytest.mark.full])
    for shape, always in FEW.items()
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
]


@pytest.fixture
def kernels(
    operation: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The operations, on Triton."""
    round_to_nearest(monkeypatch)
    add_in_a_tree(monkeypatch)
    return operation("depthwise_norm", "triton")


@pytest.fixture
def form(kernels: ModuleType, device_of: Callable[[str], torch.device]) -> Form:
    """The operation; tensors go to the device that it needs."""
    return moving(kernels.depthwise_norm, device_of("triton"))


@pytest.fixture
def form_with_residual(kernels: ModuleType, device_of: Callable[[str], torch.device]) -> Form:
    """The operation, to whose result twice its input is added."""
    return moving(add_twice(kernels.depthwise_norm_with_residual), device_of("triton"))


def moving(function: Form, device: torch.device) -> Form:
    def run(*arguments: Tensor | float) -> Tensor:
        return function(*(a.to(device) if isinstance(a, Tensor) else a for a in arguments))

    return run


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_is_the_formula(shape: str) -> None:
    inputs, grad_y = make(SHAPES[shape], torch.float64)
    assert max(errors(reference.depthwise_norm, inputs, grad_y, eps=0.05)) < 1e-14


@pytest.mark.parametrize("shape", SHAPES)
def test_in_float64_it_is_the_formula(form: Form, shape: str) -> None:
    inputs, grad_y = make(SHAPES[shape], torch.float64)
    # An eps that matters beside a variance of about .1.
    assert max(errors(form, inputs, grad_y, eps=0.05)) < 1e-12


@pytest.mark.parametrize(("shape", "dtype"), TYPED)
def test_it_is_at_most_twice_as_far_from_float64_as_eager_pytorch(
    form: Form, shape: str, dtype: torch.dtype
) -> None:
    inputs, grad_y = make(SHAPES[shape], dtype)
    assert too_far(form, inputs, grad_y) == []


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ("prime sides and channels", torch.float64),
        ("prime sides and channels", torch.float32),
        ("a wide tile, channels beyond a block", torch.bfloat16),
    ],
)
def test_a_residual_s_gradient_is_added_and_costs_no_accuracy(
    form_with_residual: Form, shape: str, dtype: torch.dtype
) -> None:
    inputs, grad = make(SHAPES[shape], dtype)
    if dtype == torch.float64:
        assert max(errors(form_with_residual, inputs, grad, plain=eager_sum)) < 1e-12
    else:
        assert too_far(form_with_residual, inputs, grad, plain=eager_sum) == []


def test_its_gradients_are_the_slopes_of_its_values(form: Form, form_with_residual: Form) -> None:
    inputs, _ = make((1, 3, 3, 2), torch.float64)
    leaves = tuple(tensor.requires_grad_() for tensor in inputs)
    for function in (form, form_with_residual):

        def value(*given: Tensor, function: Form = function) -> Tensor:
            return function(*given, EPS)

        # Fast mode: a direction at random instead of every number, each a run of the interpreter.
        assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


def test_what_a_program_does_in_several_steps_adds_up(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "BACK_PROGRAMS", 2)
    monkeypatch.setattr(launch, "NORM_PROGRAMS", 2)
    inputs, grad_y = make((1, 64, 17, 3), torch.float32)  # 2 strips of 3 and 2 steps; 4 of pixels
    assert too_far(form, inputs, grad_y) == []


def test_a_mean_far_from_zero_costs_no_more_than_it_does_in_eager_pytorch(form: Form) -> None:
    inputs, grad_y = make((1, 32, 2, 8), torch.float32)
    inputs[2] += 300
    assert too_far(form, inputs, grad_y) == []


def test_of_no_images_come_none_and_gradients_of_zero(form: Form) -> None:
    inputs, grad_y = make((0, 5, 4, 8), torch.float32)
    y, grad_x, *parameters = outcome(form, inputs, grad_y)
    assert y.shape == grad_x.shape == (0, 5, 4, 8)
    assert all(bool((gradient == 0).all()) for gradient in parameters)


def test_it_is_the_same_to_the_byte_every_time(form: Form) -> None:
    inputs, grad_y = make((2, 8, 2, 3), torch.bfloat16)
    first, second = (outcome(form, inputs, grad_y) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
