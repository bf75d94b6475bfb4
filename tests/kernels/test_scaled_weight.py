"""scaled_weight against its formula in float64, and as an operation of PyTorch."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels.scaled_weight import launch, reference
from tests.kernels.depthwise_norm_truth import round_to_nearest

# opcheck looks at .grad of tensors that are no leaves.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")

Form = Callable[..., tuple[Tensor, Tensor]]

# C, D: one weight; a prime of each; whole blocks; a block and a rest, with BLOCK as below.
SIZES = [(1, 1), (3, 7), (2, 32), (5, 21)]
BLOCK = 16
NAMES = ("weight", "bias", "grad weight", "grad bias", "grad gamma")


@pytest.fixture
def op(operation: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    round_to_nearest(monkeypatch)
    monkeypatch.setattr(launch, "BLOCK", BLOCK)
    return operation("scaled_weight", "triton")


@pytest.fixture
def device(device_of: Callable[[str], torch.device]) -> torch.device:
    return device_of("triton")


def make(C: int, D: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Weights, bias and scale."""
    generator = torch.Generator().manual_seed(C * D)
    parts = (torch.randn(size, generator=generator) for size in ((C, D), (C,), (C,)))
    return [part.to(dtype).requires_grad_() for part in parts]


def outcome(form: Form, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Both results and all gradients, in the order of NAMES, for gradients that bfloat16 holds."""
    made = form(*inputs, dtype)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(m.shape, generator=generator).bfloat16().to(m) for m in made]
    found = torch.autograd.grad(made, inputs, grads)
    return [*(part.detach() for part in made), *found]


def too_far(form: Form, inputs: list[Tensor], dtype: torch.dtype) -> list[str]:
    """Which outcomes are further from float64 than twice eager PyTorch's."""
    exact = [part.detach().cpu().double().requires_grad_() for part in inputs]
    truth = outcome(reference.scaled_weight, exact, torch.float64)

    def errors(form: Form) -> list[float]:
        found = outcome(form, inputs, dtype)
        return [
            float((one.cpu().double() - true).norm() / true.norm())
            for one, true in zip(found, truth, strict=True)
        ]

    both = zip(NAMES, errors(form), errors(reference.scaled_weight), strict=True)
    # A last bit of float32 is never too far: with few values eager PyTorch may happen to be exact.
    floor = torch.finfo(torch.float32).eps
    return [name for name, ours, theirs in both if not ours <= max(2 * theirs, floor)]


def on(device: torch.device, tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().to(device).requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_at_most_twice_as_far_from_float64_as_eager_pytorch(
    op: ModuleType, device: torch.device, size: tuple[int, int], dtype: torch.dtype
) -> None:
    assert too_far(op.scaled_weight, on(device, make(*size)), dtype) == []


def test_only_the_scales_gradient_may_be_rounded_otherwise_than_eager_pytorchs(
    op: ModuleType, device: torch.device
) -> None:
    inputs = on(device, make(5, 21))
    ours, theirs = (
        outcome(form, inputs, torch.bfloat16)
        for form in (op.scaled_weight, reference.scaled_weight)
    )
    same = [name for name, *pair in zip(NAMES, ours, theirs, strict=True) if torch.equal(*pair)]
    assert set(same) >= {"weight", "bias", "grad weight", "grad bias"}
    assert [part.dtype for part in ours] == [torch.bfloat16] * 2 + [torch.float32] * 3


def test_its_gradients_are_the_slopes_of_its_values(op: ModuleType, device: torch.device) -> None:
    inputs = tuple(on(device, make(2, 19, torch.float64)))
    assert torch.autograd.gradcheck(
        lambda *given: op.scaled_weight(*given, torch.float64), inputs, fast_mode=True
    )


def test_tensors_with_gaps_are_taken(op: ModuleType, device: torch.device) -> None:
    inputs = make(4, 6)
    apart = [torch.stack([part, part + 1], -1)[..., 0] for part in inputs]
    weight, bias, gamma = on(device, inputs)
    expected = reference.scaled_weight(weight, bias, gamma, torch.bfloat16)
    found = op.scaled_weight(*on(device, apart), torch.bfloat16)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    made, _ = op.scaled_weight(weight, bias, gamma, torch.float32)
    (grad,) = torch.autograd.grad(made, weight, torch.ones(6, 4, device=device).t())
    assert torch.equal(grad, gamma[:, None].expand(4, 6))


def test_one_result_may_go_unused(op: ModuleType, device: torch.device) -> None:
    inputs = on(device, make(3, 7))
    found = torch.autograd.grad(op.scaled_weight(*inputs, torch.float32)[1].sum(), inputs)
    expected = (torch.zeros(3, 7, device=device), inputs[2], inputs[1])
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_it_is_registered_as_torch_wants_it(op: ModuleType, device: torch.device) -> None:
    inputs = on(device, make(3, 7))
    forward = torch.ops.roomsmith.scaled_weight.default
    backward = torch.ops.roomsmith.scaled_weight_backward.default
    done = torch.library.opcheck(forward, (*inputs, torch.bfloat16))
    assert set(done.values()) == {"SUCCESS"}
    grads = [part.detach() for part in forward(*inputs, torch.bfloat16)]
    given = (*grads, *(part.detach() for part in inputs))
    assert set(torch.library.opcheck(backward, given).values()) == {"SUCCESS"}


def test_compiled_without_a_break_it_is_the_same(op: ModuleType, device: torch.device) -> None:
    compiled = torch.compile(op.scaled_weight, fullgraph=True, backend="aot_eager")
    inputs = on(device, make(3, 7))
    pair = (outcome(form, inputs, torch.bfloat16) for form in (op.scaled_weight, compiled))
    assert all(torch.equal(*both) for both in zip(*pair, strict=True))


def test_the_backward_pass_keeps_the_parameters_alone(op: ModuleType, device: torch.device) -> None:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    inputs = on(device, make(3, 7))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        op.scaled_weight(*inputs, torch.bfloat16)
    assert [part.data_ptr() for part in kept] == [part.data_ptr() for part in inputs]


@pytest.mark.parametrize("backend", ["reference", "triton"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(3)}, r"weights must be \(C, D\), no side empty, got \(3,\)"),
        ({"weight": torch.zeros(3, 0)}, r"no side empty, got \(3, 0\)"),
        ({"bias": torch.zeros(2)}, r"bias must be \(3,\) torch.float32, got \(2,\)"),
        ({"gamma": torch.zeros(3).double()}, "gamma must be .* torch.float64"),
        ({"dtype": torch.int32}, "dtypes must be floating, got torch.float32 and torch.int32"),
    ],
)
def test_what_does_not_fit_is_refused(
    backend: str,
    operation: Callable[[str, str], ModuleType],
    changes: dict[str, Tensor | torch.dtype],
    message: str,
) -> None:
    given = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "gamma": torch.zeros(3)}
    values = {**given, "dtype": torch.bfloat16, **changes}
    with pytest.raises(ValueError, match=message):
        operation("scaled_weight", backend).scaled_weight(*values.values())


def test_on_a_gpu_low_parameters_are_refused(op: ModuleType, device: torch.device) -> None:
    with pytest.raises(ValueError, match="must be float32 or float64, got torch.bfloat16"):
        op.scaled_weight(*on(device, make(3, 7, torch.bfloat16)), torch.bfloat16)


MUTANTS = {
    "the scale is left out": ("scaled = gamma * tl.load(", "scaled = tl.load("),
    "the bias keeps its size": ("(gamma * tl.load(bias_C + c))", "tl.load(bias_C + c)"),
    "the last weight is not read": (
        "scaled = gamma * tl.load(weight + row + d, d < D",
        "scaled = gamma * tl.load(weight + row + d, d < D - 1",
    ),
    "rows are a column apart": (
        "row = c.to(tl.int64) * D\n    for",
        "row = c.to(tl.int64)\n    for",
    ),
    "the weights' gradient is not scaled": ("gamma * grad, d < D", "grad, d < D"),
    "the bias's gradient is not scaled": ("gamma * grad_bias)", "grad_bias)"),
    "the scale's gradient lacks the bias": (" + grad_bias * tl.load(bias_C + c))", ")"),
    "the scale's gradient lacks the weights": (
        "total += grad * tl.load(",
        "total += 0.0 * tl.load(",
    ),
    "the scale's gradient is of the last block": ("total += grad", "total = grad"),
    "the last gradient is not read": (
        "tl.load(grad_low + row + d, d < D",
        "tl.load(grad_low + row + d, d < D - 1",
    ),
}
"""Faults, each of which the comparison with float64 finds; none reads outside its arrays."""


@pytest.mark.parametrize("fault", MUTANTS)
def test_a_planted_fault_is_found(
    fault: str,
    op: ModuleType,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    right, wrong = MUTANTS[fault]
    source = Path(launch.__file__).with_name("triton.py").read_text("utf-8")
    assert source.count(right) == 1
    file = tmp_path / "triton.py"  # Triton reads a kernel's source from its file
    file.write_text(source.replace(right, wrong), "utf-8")
    spec = importlib.util.spec_from_file_location("kernels.scaled_weight.triton", file)
    assert spec is not None
    assert spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kernels.scaled_weight.triton", mutant)
    spec.loader.exec_module(mutant)
    assert too_far(op.scaled_weight, on(device, make(5, 21)), torch.float32) != []
