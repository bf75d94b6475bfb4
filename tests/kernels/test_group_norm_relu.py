"""group_norm_relu against float64 and against what PyTorch makes of it, a layer at a time."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kernels.group_norm_relu import GroupNorm, launch

EPS = 1e-5

# (B, C, h, w), groups: channels and cells that fill no tile; a lone cell; a lone row; a lone
# column; more channels than a program takes; a channel a group, several runs.
SIZES = [
    ((2, 8, 3, 5), 4),
    ((2, 6, 1, 1), 2),
    ((1, 3, 1, 7), 1),
    ((1, 33, 5, 1), 3),
    ((1, 144, 2, 3), 12),
    ((1, 32, 13, 11), 32),
]
FORMS = [(False, False), (False, True), (True, False), (True, True)]  # doubled, added

OperationOf = Callable[[str, str], ModuleType]
DeviceOf = Callable[[str], torch.device]


class Case(NamedTuple):
    """Inputs, and a gradient for the result."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    added: Tensor | None
    grad: Tensor
    groups: int
    doubled: bool

    def to(self, dtype: torch.dtype, affine: torch.dtype, device: torch.device) -> "Case":
        """Its values in other dtypes, on a device; all inputs need a gradient."""

        def of(tensor: Tensor | None, kind: torch.dtype) -> Any:
            return None if tensor is None else tensor.detach().to(device, kind).requires_grad_()

        x, added, grad = (of(part, dtype) for part in (self.x, self.added, self.grad))
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        weight, bias = of(self.weight, affine), of(self.bias, affine)
        return Case(x, weight, bias, added, grad.detach(), self.groups, self.doubled)


def case(shape: tuple[int, ...], groups: int, form: tuple[bool, bool], dtype: torch.dtype) -> Case:
    """Values that `dtype` holds, in float64; means of a few deviations."""
    doubled, added = form
    generator = torch.Generator().manual_seed(sum(shape))

    def random(*sides: int) -> Tensor:
        return torch.randn(*sides, generator=generator).to(dtype).double()

    B, C, h, w = shape
    out = (B, C, 2 * h, 2 * w) if doubled else shape
    x = (2 * random(*shape) + 3).to(dtype).double()
    affine = torch.randn(2, C, generator=generator).double()
    sum_with = random(*out) if added else None
    return Case(x, affine[0], affine[1], sum_with, random(*out), groups, doubled)


def by_operation(module: ModuleType, of: Case) -> list[Tensor]:
    """Result and gradients."""
    norm = GroupNorm(of.weight, of.bias, of.groups, EPS)
    out = module.group_norm_relu(of.x, norm, doubled=of.doubled, added_BCHW=of.added)
    inputs = [part for part in of[:4] if part is not None]
    return [out, *torch.autograd.grad(out, inputs, of.grad)]


def by_layers(of: Case) -> list[Tensor]:
    """The same as the FPN has it under autocast: a layer at a time, in float32, rounded last."""
    real = of.weight.dtype
    y = torch.group_norm(of.x.to(real), of.groups, of.weight, of.bias, EPS).relu()
    if of.doubled:
        y = F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=True)
    out = (y if of.added is None else y + of.added.to(real)).to(of.x.dtype)
    inputs = [part for part in of[:4] if part is not None]
    return [out, *torch.autograd.grad(out, inputs, of.grad)]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Of each tensor, the distance from float64 relative to the largest of its kind."""
    return [
        float((a.detach().cpu().double() - b.detach()).norm() / (b.detach().norm() + 1e-3))
        for a, b in zip(found, exact, strict=True)
    ]


@pytest.fixture
def _to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter cuts float32 to bfloat16; a GPU rounds, as this makes it do."""
    from triton.runtime import interpreter

    cut = interpreter._convert_float

    def rounded(values: NDArray[Any], source: Any, target: Any, mode: Any) -> NDArray[Any]:
        if (str(source), str(target)) != ("fp32", "bf16"):
            return np.asarray(cut(values, source, target, mode))
        nearest = torch.from_numpy(values.view(np.float32).copy()).to(torch.bfloat16)
        return nearest.view(torch.int16).numpy().view(np.uint16).reshape(values.shape)

    monkeypatch.setattr(interpreter, "_convert_float", rounded)


@pytest.fixture(params=["reference", "triton"])
def module(request: pytest.FixtureRequest, operation: OperationOf) -> ModuleType:
    return operation("group_norm_relu", request.param)


@pytest.fixture
def device(request: pytest.FixtureRequest, device_of: DeviceOf) -> torch.device:
    named = request.node.callspec.params.get("module", "triton")
    return device_of(named)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "groups"), SIZES)
def test_result_and_gradients_are_those_of_float64(
    module: ModuleType,
    device: torch.device,
    shape: tuple[int, ...],
    groups: int,
    form: tuple[bool, bool],
) -> None:
    exact = case(shape, groups, form, torch.float32)
    truth = by_layers(exact.to(torch.float64, torch.float64, torch.device("cpu")))
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 2e-6)):
        found = by_operation(module, exact.to(dtype, dtype, device))
        assert max(errors(found, truth)) < bound
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        assert [part.dtype for part in found] == [dtype] * len(found)


@pytest.mark.usefixtures("_to_nearest")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", [(False, False), (True, True)])
def test_it_is_at_most_twice_as_far_from_float64_as_pytorch(
    operation: OperationOf, device_of: DeviceOf, form: tuple[bool, bool], dtype: torch.dtype
) -> None:
    exact = case((2, 32, 7, 5), 8, form, dtype)
    truth = by_layers(exact.to(torch.float64, torch.float64, torch.device("cpu")))
    theirs = by_layers(exact.to(dtype, torch.float32, torch.device("cpu")))
    module = operation("group_norm_relu", "triton")
    ours = by_operation(module, exact.to(dtype, torch.float32, device_of("triton")))
    # Sums of equal order may differ by some units in the last place.
    least = 2e-7
    for mine, others in zip(errors(ours, truth), errors(theirs, truth), strict=True):
        assert mine <= 2 * max(others, least)


def test_a_group_of_one_value_becomes_its_bias(operation: OperationOf, device_of: DeviceOf) -> None:
    of = case((2, 6, 1, 1), 6, (False, False), torch.float32)
    of = of.to(torch.float32, torch.float32, device_of("triton"))
    out, grad_x, grad_weight, _ = by_operation(operation("group_norm_relu", "triton"), of)
    assert torch.equal(out, of.bias.relu().expand(2, 6)[..., None, None])
    # Two equal terms of some hundreds, 1 / sqrt(eps) times the gradient, less one another.
    assert grad_x.abs().max() < 1e-4
    assert not grad_weight.any()


def test_a_large_mean_leaves_the_deviation(
    operation: OperationOf, device_of: DeviceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One run of nine tiles. A sum of squares would leave nothing of their deviation;
    # PyTorch 2.14's own norm of a channels-last tensor on a CPU is off by a hundredfold here.
    monkeypatch.setattr(launch, "MOST_RUNS", 1)
    monkeypatch.setattr(launch, "TILE", 128)
    exact = case((1, 8, 13, 11), 2, (False, False), torch.float32)
    exact = exact._replace(x=(exact.x + 10_000).float().double())
    truth = by_layers(exact.to(torch.float64, torch.float64, torch.device("cpu")))
    exact = exact.to(torch.float32, torch.float32, device_of("triton"))
    found = by_operation(operation("group_norm_relu", "triton"), exact)
    # Half a unit in the last place of 10,000, in the mean, is 5e-4: a 4,000th of the deviation.
    # Gradients tell less: a value that this moves across the ReLU's corner has another one.
    assert errors(found, truth)[0] < 1e-3


@pytest.mark.parametrize("form", [(False, True), (True, False)])
def test_runs_of_several_tiles_are_merged(
    operation: OperationOf,
    device_of: DeviceOf,
    monkeypatch: pytest.MonkeyPatch,
    form: tuple[bool, bool],
) -> None:
    # Two runs of two tiles, the last of which is not full; means that differ from run to run.
    monkeypatch.setattr(launch, "MOST_RUNS", 2)
    monkeypatch.setattr(launch, "TILE", 1024)
    monkeypatch.setattr(launch, "DOUBLED_TILE", 512)
    exact = case((2, 64, 7, 8), 16, form, torch.float32)
    exact = exact._replace(x=exact.x + torch.linspace(0, 5, 8, dtype=torch.float64))
    exact = exact._replace(x=exact.x.float().double())
    truth = by_layers(exact.to(torch.float64, torch.float64, torch.device("cpu")))
    module = operation("group_norm_relu", "triton")
    found = by_operation(module, exact.to(torch.float32, torch.float32, device_of("triton")))
    assert max(errors(found, truth)) < 2e-6


@pytest.mark.parametrize("doubled", [False, True])
def test_its_gradient_is_the_slope(
    operation: OperationOf, device_of: DeviceOf, doubled: bool
) -> None:
    module = operation("group_norm_relu", "triton")
    of = case((1, 4, 2, 2), 2, (doubled, True), torch.float64)
    of = of.to(torch.float64, torch.float64, device_of("triton"))

    def out(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor) -> Tensor:
        norm = GroupNorm(weight, bias, of.groups, EPS)
        result: Tensor = module.group_norm_relu(x, norm, doubled=doubled, added_BCHW=added)
        return result

    # No normalised value is within 1e-3 of the ReLU's corner, where there is no slope.
    plain = torch.group_norm(of.x, of.groups, of.weight, of.bias, EPS)
    assert plain.abs().min() > 1e-3
    assert of.added is not None
    inputs = (of.x, of.weight, of.bias, of.added)
    assert torch.autograd.gradcheck(out, inputs, fast_mode=True)


@pytest.mark.parametrize("doubled", [False, True])
def test_what_is_no_number_spoils_its_group_and_no_other(
    module: ModuleType, device: torch.device, doubled: bool
) -> None:
    of = case((2, 4, 3, 3), 2, (doubled, False), torch.float32)
    of = of.to(torch.float32, torch.float32, device)
    with torch.no_grad():
        of.x[1, 3, 1, 1] = torch.nan
    out = by_operation(module, of)[0]
    assert out[1, 2:].isnan().all()
    assert not out[1, :2].isnan().any()
    assert not out[0].isnan().any()


def test_other_layouts_give_the_same(module: ModuleType, device: torch.device) -> None:
    of = case((2, 8, 3, 4), 4, (True, True), torch.float32)
    of = of.to(torch.float32, torch.float32, device)
    expected = by_operation(module, of)
    assert of.added is not None
    strided = of._replace(
        x=of.x.detach().contiguous().requires_grad_(),
        added=of.added.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_(),
        weight=of.weight.detach().repeat_interleave(2)[::2].requires_grad_(),
        grad=of.grad.contiguous(memory_format=torch.channels_last),
    )
    found = by_operation(module, strided)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("doubled", [False, True])
def test_an_empty_batch_has_an_empty_result(
    module: ModuleType, device: torch.device, doubled: bool
) -> None:
    of = case((0, 4, 2, 3), 2, (doubled, False), torch.float32)
    found = by_operation(module, of.to(torch.float32, torch.float32, device))
    assert found[0].shape == ((0, 4, 4, 6) if doubled else (0, 4, 2, 3))
    assert [float(part.detach().abs().sum()) for part in found] == [0] * 4


def test_two_runs_give_the_same_bytes(operation: OperationOf, device_of: DeviceOf) -> None:
    module = operation("group_norm_relu", "triton")
    of = case((1, 8, 5, 7), 4, (True, True), torch.float32)
    of = of.to(torch.float32, torch.float32, device_of("triton"))
    twice = [by_operation(module, of) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))
