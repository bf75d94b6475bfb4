"""group_norm_relu as an operation of PyTorch: registration, compilation, what it keeps, refuses."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.group_norm_relu import GroupNorm, group_norm_relu

# opcheck looks at .grad of tensors that are no leaves.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@pytest.fixture
def op(operation: Callable[[str, str], ModuleType]) -> ModuleType:
    return operation("group_norm_relu", "triton")


@pytest.fixture
def x(device_of: Callable[[str], torch.device]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x_BChw = torch.randn(1, 4, 2, 3, generator=generator).to(device_of("triton"))
    return x_BChw.contiguous(memory_format=torch.channels_last).requires_grad_()


def norm_of(x: Tensor, groups: int = 2) -> GroupNorm:
    C = x.shape[1]
    weight, bias = torch.linspace(1, 2, C), torch.linspace(-0.1, 0.3, C)
    weight, bias = (part.to(x.device).requires_grad_() for part in (weight, bias))
    return GroupNorm(weight, bias, groups, 1e-5)


@pytest.mark.parametrize("doubled", [False, True])
def test_it_is_registered_as_torch_wants_it(op: ModuleType, x: Tensor, doubled: bool) -> None:
    norm = norm_of(x)
    added = torch.zeros(1, 4, 4, 6, device=x.device, requires_grad=True) if doubled else None
    operation = torch.ops.roomsmith.group_norm_relu.default
    done = torch.library.opcheck(operation, (x, *norm, doubled, added))
    assert set(done.values()) == {"SUCCESS"}
    y, moment = operation(x, *norm, doubled, None)
    backward = torch.ops.roomsmith.group_norm_relu_backward.default
    arguments = (y, x, norm.weight_C, norm.bias_C, moment)
    done = torch.library.opcheck(backward, (*(part.detach() for part in arguments), doubled))
    assert set(done.values()) == {"SUCCESS"}


def test_compiled_without_a_break_it_is_the_same(op: ModuleType, x: Tensor) -> None:
    norm = norm_of(x)

    def out_of(x: Tensor) -> Tensor:
        y = op.group_norm_relu(2 * x, norm, doubled=True)
        out: Tensor = op.group_norm_relu(y, norm, added_BCHW=y)
        return out

    inputs = (x, norm.weight_C, norm.bias_C)
    compiled = torch.compile(out_of, fullgraph=True, backend="aot_eager")
    found = []
    for function in (out_of, compiled):
        out = function(x)
        found.append([out, *torch.autograd.grad(out, inputs, torch.ones_like(out))])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("doubled", [False, True])
def test_the_backward_pass_keeps_the_input_and_two_numbers_a_group(
    op: ModuleType, x: Tensor, doubled: bool
) -> None:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    norm = norm_of(x)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        op.group_norm_relu(x, norm, doubled=doubled)
    assert [tensor.numel() for tensor in kept] == [x.numel(), 4, 4, 2 * norm.groups]


def test_only_what_was_added_needs_a_gradient(op: ModuleType, x: Tensor) -> None:
    added = torch.zeros_like(x, requires_grad=True)
    norm = norm_of(x)
    norm = norm._replace(weight_C=norm.weight_C.detach(), bias_C=norm.bias_C.detach())
    out = op.group_norm_relu(x.detach(), norm, added_BCHW=added)
    (grad,) = torch.autograd.grad(out, added, 2 * torch.ones_like(out))
    assert torch.equal(grad, 2 * torch.ones_like(added))


def test_autocast_changes_neither_dtype_nor_value(op: ModuleType, x: Tensor) -> None:
    norm = norm_of(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        inside = op.group_norm_relu(x, norm)
    assert torch.equal(inside, op.group_norm_relu(x, norm))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(1, 4, 2)}, r"need floating \(B, C, h, w\) .* got \(1, 4, 2\)"),
        ({"x": torch.zeros(1, 4, 2, 3, dtype=torch.int32)}, "need floating"),
        ({"x": torch.zeros(1, 4, 0, 3)}, "no empty side"),
        ({"groups": 3}, "3 groups do not divide 4 channels"),
        ({"groups": 0}, "0 groups do not divide"),
        ({"weight": torch.ones(5)}, r"must be \(4,\), got \(5,\) and \(4,\)"),
        ({"added": torch.zeros(1, 4, 2, 3)}, r"must be \(1, 4, 4, 6\) torch.float32, got \(1, 4"),
        ({"added": torch.zeros(1, 4, 4, 6).double()}, "got .* torch.float64"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "triton"], indirect=True)
def test_what_does_not_fit_is_refused(
    backend: str,
    operation: Callable[[str, str], ModuleType],
    changes: dict[str, Any],
    message: str,
) -> None:
    values: dict[str, Any] = {
        "x": torch.zeros(1, 4, 2, 3),
        "weight": torch.ones(4),
        "groups": 2,
        "added": None,
    }
    values |= changes
    norm = GroupNorm(values["weight"], torch.zeros(4), values["groups"], 1e-5)
    module = operation("group_norm_relu", backend)
    with pytest.raises(ValueError, match=message):
        module.group_norm_relu(values["x"], norm, doubled=True, added_BCHW=values["added"])


def test_an_image_beyond_int32_is_refused(op: ModuleType) -> None:
    side = 2**15
    large = torch.empty(1, 2, side // 2, side // 2, device="meta")
    norm = GroupNorm(torch.ones(2), torch.zeros(2), 1, 1e-5)
    with pytest.raises(ValueError, match="too many values"):
        op.group_norm_relu(large, norm, doubled=True)
    assert group_norm_relu(large[..., :4], norm).shape == (1, 2, side // 2, 4)
