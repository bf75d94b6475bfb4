"""depthwise_norm as an operation of PyTorch: registration, compilation, autocast, what it keeps."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from benchmarks.op_bytes import FUSED, POINTWISE, MovedBytes
from kernels.depthwise_norm import launch, reference
from tests.kernels.depthwise_norm_truth import EPS, Form, add_twice, make, outcome

SHAPE = (2, 12, 2, 3)

# opcheck looks at .grad of tensors that are no leaves.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@pytest.fixture
def fused(operation: Callable[[str, str], ModuleType]) -> Form:
    form: Form = operation("depthwise_norm", "triton").depthwise_norm
    return form


@pytest.fixture
def with_residual(
    operation: Callable[[str, str], ModuleType],
) -> Callable[..., tuple[Tensor, Tensor]]:
    function: Callable[..., tuple[Tensor, Tensor]]
    function = operation("depthwise_norm", "triton").depthwise_norm_with_residual
    return function


@pytest.fixture
def device(device_of: Callable[[str], torch.device]) -> torch.device:
    return device_of("triton")


def inputs_on(device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [tensor.to(device).requires_grad_() for tensor in make(SHAPE, dtype)[0]]


def taps_and_others(inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """The operator's own first arguments."""
    x, weight, *others = (tensor.detach() for tensor in inputs)
    return (x, weight.flatten(1).t().contiguous(), *others)


@pytest.mark.parametrize(
    ("dtype", "gradient"),
    [
        (torch.float32, True),
        (torch.bfloat16, False),
        pytest.param(torch.float32, False, marks=pytest.mark.full),
        pytest.param(torch.bfloat16, True, marks=pytest.mark.full),
    ],
)
def test_it_is_registered_as_torch_wants_it(
    fused: Form, device: torch.device, dtype: torch.dtype, gradient: bool
) -> None:
    arguments = (*taps_and_others(inputs_on(device, dtype)), EPS, gradient)
    done = torch.library.opcheck(torch.ops.roomsmith.depthwise_norm.default, arguments)
    assert set(done.values()) == {"SUCCESS"}


@pytest.mark.parametrize("residual", [True, False])
def test_its_backward_pass_is_registered_as_torch_wants_it(
    fused: Form, device: torch.device, residual: bool
) -> None:
    x, taps, bias, gamma, beta = taps_and_others(inputs_on(device))
    forward = torch.ops.roomsmith.depthwise_norm.default
    y, normal, rstd = forward(x, taps, bias, gamma, beta, EPS, True)
    past = torch.ones_like(x) if residual else None
    arguments = (torch.ones_like(y), past, x, normal, rstd, taps, gamma)
    done = torch.library.opcheck(torch.ops.roomsmith.depthwise_norm_backward.default, arguments)
    assert set(done.values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("autocast", "residual"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=pytest.mark.full),
        pytest.param(False, True, marks=pytest.mark.full),
    ],
)
def test_compiled_without_a_break_it_is_the_same(
    fused: Form,
    with_residual: Callable[..., tuple[Tensor, Tensor]],
    device: torch.device,
    autocast: bool,
    residual: bool,
) -> None:
    form, inputs = add_twice(with_residual) if residual else fused, inputs_on(device)
    linear = nn.Linear(SHAPE[1], 3, device=device)

    def value(*leaves: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            y = form(*leaves, EPS)
            result: Tensor = linear(y.permute(0, 2, 3, 1)).float().square().mean()
        return result

    compiled = torch.compile(value, fullgraph=True, backend="aot_eager")
    found = []
    for function in (value, compiled):
        result = function(*inputs)
        found.append((result, *torch.autograd.grad(result, inputs)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("form", ["fused", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_takes_and_returns_the_compute_type_and_keeps_parameters_whole(
    fused: Form, device: torch.device, form: str, dtype: torch.dtype
) -> None:
    function: Form = fused if form == "fused" else reference.depthwise_norm
    inputs = inputs_on(device, dtype)
    with torch.autocast(device.type, torch.bfloat16):
        y = function(*inputs, EPS)
    assert y.dtype == torch.bfloat16
    without = function(inputs[0].bfloat16(), *inputs[1:], EPS)
    assert torch.equal(y, without)
    gradients = torch.autograd.grad(y.float().square().mean(), inputs)
    assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in inputs]


def test_parameters_may_be_of_the_input_s_type(fused: Form, device: torch.device) -> None:
    inputs, grad_y = make(SHAPE, torch.bfloat16)
    halved = [tensor.to(device, torch.bfloat16) for tensor in inputs]
    found = outcome(fused, halved, grad_y)
    assert {part.dtype for part in found} == {torch.bfloat16}
    whole = [halved[0], *(tensor.float() for tensor in halved[1:])]
    expected = outcome(fused, whole, grad_y)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.bfloat16(), rtol=0, atol=0)


def test_any_layout_of_inputs_and_gradient_gives_the_same(
    fused: Form, device: torch.device
) -> None:
    inputs, grad_y = make(SHAPE, torch.float32)
    inputs, grad_y = [tensor.to(device) for tensor in inputs], grad_y.to(device)
    expected = outcome(fused, inputs, grad_y)
    assert expected[0].is_contiguous(memory_format=torch.channels_last)
    spread = [torch.stack((tensor, tensor), -1)[..., 0] for tensor in inputs]
    leaves = [tensor.detach().requires_grad_() for tensor in spread]
    assert not leaves[0].is_contiguous(memory_format=torch.channels_last)
    y = fused(*leaves, EPS)
    found = [y.detach(), *torch.autograd.grad(y, leaves, grad_y.contiguous())]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    # A sum's gradient is one number at strides of 0.
    y = fused(*leaves, EPS)
    assert torch.autograd.grad(y.sum(), leaves[4])[0].tolist() == [2 * 2 * 3] * SHAPE[1]


def test_the_residual_is_the_input_s_memory_and_its_gradient_costs_no_pass(
    with_residual: Callable[..., tuple[Tensor, Tensor]], device: torch.device
) -> None:
    inputs = inputs_on(device)
    y, residual = with_residual(*inputs, EPS)
    assert residual.data_ptr() == inputs[0].data_ptr()
    with MovedBytes() as moved:
        torch.autograd.grad((y, residual), inputs[:1], (torch.ones_like(y), torch.ones_like(y)))
    ours = [(FUSED, "depthwise_norm_backward"), (POINTWISE, "ones_like")]
    large = inputs[0].numel() * inputs[0].element_size()
    assert sorted(name for name, count in moved.by_name.items() if count >= large) == ours


def test_each_of_two_results_alone_has_its_gradient(
    fused: Form, with_residual: Callable[..., tuple[Tensor, Tensor]], device: torch.device
) -> None:
    inputs, grad = make(SHAPE, torch.float32)
    expected = outcome(fused, inputs, grad)
    found = outcome(lambda *given: with_residual(*given)[0], inputs, grad)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    x, *others = inputs_on(device)
    alone = torch.autograd.grad(with_residual(x, *others, EPS)[1], x, grad.to(device))[0]
    assert torch.equal(alone, grad.to(device))


@pytest.mark.parametrize("form", ["fused", "reference"])
def test_under_autocast_the_residual_is_of_the_compute_type(
    with_residual: Callable[..., tuple[Tensor, Tensor]], device: torch.device, form: str
) -> None:
    function: Callable[..., tuple[Tensor, Tensor]]
    function = with_residual if form == "fused" else reference.depthwise_norm_with_residual
    x, taps, bias, gamma, beta = inputs_on(device)
    with torch.autocast(device.type, torch.bfloat16):
        y, residual = function(x, taps, bias, gamma, beta, EPS)
    assert y.dtype == residual.dtype == torch.bfloat16
    assert torch.equal(residual, x.bfloat16())
    assert residual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backward_keeps_input_normal_and_a_number_a_pixel(
    fused: Form, device: torch.device, dtype: torch.dtype
) -> None:
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    inputs = inputs_on(device, dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fused(*inputs, EPS)
    values, pixels, channels = inputs[0].numel(), 2 * 2 * 3, SHAPE[1]
    taps, gamma = 4 * 49 * channels, 4 * channels
    expected = [dtype.itemsize * values] * 2 + [4 * pixels, taps, gamma]
    assert sorted(kept) == sorted(expected)


def test_without_a_gradient_it_makes_nothing_but_its_result(
    fused: Form, device: torch.device
) -> None:
    given = taps_and_others(inputs_on(device))
    y, *rest = torch.ops.roomsmith.depthwise_norm.default(*given, EPS, False)
    assert [part.numel() for part in rest] == [0, 0]
    with_them = torch.ops.roomsmith.depthwise_norm.default(*given, EPS, True)
    assert torch.equal(y, with_them[0])


def test_its_launches_fill_a_gpu_and_leave_few_sums_apart() -> None:
    # The four stages of ConvNeXt-B at batch 4: one wave of programs, 384 of them.
    stages = ((128, 144, 192), (256, 72, 96), (512, 36, 48), (1024, 18, 24))
    for channels, height, width in stages:
        blocks, tiles, _ = launch.back_grid((4, channels, height, width), 8)
        assert blocks * tiles * 4 == 384


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({0: torch.zeros(12, 2, 3)}, r"the input must be \(B, C, H, W\), got \(12, 2, 3\)"),
        ({1: torch.zeros(12, 1, 5, 5)}, r"the taps must be \(12, 1, 7, 7\), got \(12, 1, 5, 5\)"),
        ({1: torch.zeros(11, 1, 7, 7)}, r"the taps must be \(12, 1, 7, 7\), got \(11, 1, 7, 7\)"),
        ({2: torch.zeros(11)}, r"bias must be \(12,\), got \(11,\)"),
        ({3: torch.zeros(1)}, r"gamma must be \(12,\), got \(1,\)"),
        ({4: torch.zeros(12, 1)}, r"beta must be \(12,\), got \(12, 1\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    fused: Form, device: torch.device, changed: dict[int, Tensor], message: str
) -> None:
    inputs = inputs_on(device)
    for place, tensor in changed.items():
        inputs[place] = tensor.to(device)
    forms: tuple[Form, ...] = (fused, reference.depthwise_norm)
    for function in forms:
        with pytest.raises(ValueError, match=message):
            function(*inputs, EPS)
