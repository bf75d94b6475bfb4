"""boundary_ce as an operation of PyTorch: registration, compilation, what it keeps and refuses."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.boundary_ce import boundary_ce, launch, reference
from kernels.boundary_ce.reference import Weights

CLASSES = 5

# opcheck looks at .grad of tensors that are no leaves.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@pytest.fixture
def op(fused: str, operation: Callable[[str, str], ModuleType]) -> ModuleType:
    return operation("boundary_ce", fused)


@pytest.fixture
def inputs(fused: str, device_of: Callable[[str], torch.device]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that need a gradient, labels, class weights."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, CLASSES, 2, 4, generator=generator)
    label = torch.randint(0, CLASSES, (1, 8, 16), generator=generator).to(torch.uint8)
    device = device_of(fused)
    logits = logits.contiguous(memory_format=torch.channels_last).to(device).requires_grad_()
    return logits, label.to(device), torch.ones(CLASSES, device=device)


@pytest.mark.parametrize("gradient", [True, False])
def test_it_is_registered_as_torch_wants_it(
    op: ModuleType, inputs: tuple[Tensor, Tensor, Tensor], gradient: bool
) -> None:
    logits, label, weights = inputs
    logits = logits.detach().requires_grad_(gradient)
    arguments = (logits, label, weights, 2.0, True, False, gradient)
    done = torch.library.opcheck(torch.ops.roomsmith.boundary_ce.default, arguments)
    assert set(done.values()) == {"SUCCESS"}


def test_compiled_without_a_break_it_is_the_same(
    op: ModuleType, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    logits, label, weights = inputs

    def loss_of(logits: Tensor) -> Tensor:
        loss: Tensor = op.boundary_ce(2 * logits, label, weights, 2.0, align_corners=True)
        return loss

    torch.compiler.reset()  # or it would go on with the other implementation's backward pass
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    found = []
    for function in (loss_of, compiled):
        loss = function(logits)
        found.append((loss, *torch.autograd.grad(loss, logits)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_the_gradient_has_the_layout_and_dtype_of_the_logits(
    op: ModuleType, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    logits, label, weights = inputs
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        x = logits.detach().to(dtype).requires_grad_()
        loss = op.boundary_ce(x, label, weights.to(dtype), 2.0, align_corners=True)
        (gradient,) = torch.autograd.grad(loss, x)
        assert gradient.isfinite().all()
        assert gradient.dtype == dtype
        assert gradient.stride() == x.stride()


def test_backward_keeps_the_gradient_and_one_number(
    op: ModuleType, fused: str, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    logits, label, weights = inputs
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        op.boundary_ce(logits, label, weights, 2.0, align_corners=True)
    numbers = logits if fused == "cpu" else launch.empty(logits, True).slope_BSXRCL
    assert sorted(kept) == [1, numbers.numel()]


def test_on_the_gpu_the_seams_of_programs_are_three_tenths_of_what_is_kept() -> None:
    logits = torch.empty(4, 13, 144, 192, device="meta")
    assert launch.empty(logits, True).slope_BSXRCL.numel() < 1.3 * logits.numel()
    assert launch.empty(logits, False).slope_BSXRCL.numel() == 0


def test_on_the_gpu_forward_and_backward_are_three_launches(
    inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every operation of PyTorch that computes is a launch too: only memory is asked for.
    launched: list[str] = []

    class Noted:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
            return lambda *arguments, **constants: launched.append(self.name)

    class Logged(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func not in (torch.ops.aten.promote_types.default,) and "empty" not in str(func):
                launched.append(str(func))
            return func(*args, **(kwargs or {}))

    for name in ("triton.boundary_ce_sweep", "triton_ends.boundary_ce_encode"):
        monkeypatch.setattr(f"kernels.boundary_ce.{name}", Noted(name))
    monkeypatch.setattr("kernels.boundary_ce.triton_ends.boundary_ce_finish", Noted("finish"))
    logits, label, weights = (tensor.detach() for tensor in inputs)
    gradient, grad_loss = torch.empty_like(logits), torch.ones(())
    with Logged():  # type: ignore[no-untyped-call]
        swept = launch.sweep(logits, label, Weights(weights, 2.0, False), True, True)
        launch.finish(swept[1:], grad_loss, gradient)
    assert launched == ["triton_ends.boundary_ce_encode", "triton.boundary_ce_sweep", "finish"]


@pytest.mark.parametrize("fused", ["triton"], indirect=True)
def test_the_gpus_backward_is_registered_as_torch_wants_it(
    op: ModuleType, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    logits, label, weights = (tensor.detach() for tensor in inputs)
    arguments = (logits, label, weights, 2.0, True, False, True)
    _, factor, slope = torch.ops.roomsmith.boundary_ce(*arguments)
    grad_loss = torch.ones((), device=logits.device)
    for dtype, channels_last in ((torch.float32, True), (torch.bfloat16, False)):
        layout = (list(logits.shape), dtype, channels_last)
        done = torch.library.opcheck(
            torch.ops.roomsmith.boundary_ce_backward.default, (factor, slope, grad_loss, *layout)
        )
        assert set(done.values()) == {"SUCCESS"}


def test_it_has_no_second_derivative(op: ModuleType, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, label, weights = inputs
    loss = op.boundary_ce(logits, label, weights, 2.0, align_corners=True)
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.square().sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("value", [CLASSES, 254])
@pytest.mark.parametrize("fused", ["cpu"], indirect=True)
def test_on_the_cpu_a_label_out_of_range_is_refused(
    inputs: tuple[Tensor, Tensor, Tensor], value: int
) -> None:
    logits, label, weights = inputs
    label[0, 3, 5] = value
    with pytest.raises(ValueError, match=r"labels must be 0 \.\. 4 or 255 = ignore"):
        boundary_ce(logits, label, weights, 2.0, align_corners=True)


@pytest.mark.parametrize("value", [-100, -1, 256, 255 + 256])
@pytest.mark.parametrize("fused", ["cpu"], indirect=True)
def test_a_label_that_no_byte_holds_is_refused_and_not_wrapped(
    inputs: tuple[Tensor, Tensor, Tensor], value: int
) -> None:
    logits, label, weights = inputs
    label = label.long()
    label[0, 3, 5] = value
    with pytest.raises(ValueError, match=r"labels must be 0 \.\. 4 or 255 = ignore"):
        boundary_ce(logits, label, weights, 2.0, align_corners=True)


@pytest.mark.parametrize("value", [-100, -1, CLASSES, 256, 2**32, 2**40 + 255])
@pytest.mark.parametrize("fused", ["triton"], indirect=True)
def test_on_the_gpu_the_pixel_of_a_label_out_of_range_weighs_nothing_but_counts(
    op: ModuleType, device_of: Callable[[str], torch.device], fused: str, value: int
) -> None:
    # A cell a pixel, so that a pixel's gradient is its own; labels at random are edges everywhere.
    generator, device = torch.Generator().manual_seed(0), device_of(fused)
    logits = torch.randn(1, CLASSES, 8, 16, generator=generator).to(device).requires_grad_()
    label = torch.randint(0, CLASSES - 1, (1, 8, 16), generator=generator)
    weights = torch.ones(CLASSES, device=device)
    weights[-1] = 0
    found = []
    for own in (value, CLASSES - 1):  # as a pixel of a class that weighs nothing
        label[0, 3, 5] = own
        loss = op.boundary_ce(logits, label.to(device), weights, 2.0, align_corners=True)
        found.append((loss, *torch.autograd.grad(loss, logits)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    is_zero = (found[0][1][0] == 0).all(0).cpu()
    assert is_zero[3, 5]
    assert int(is_zero.sum()) == 1


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("fused", ["triton"], indirect=True)
def test_on_the_gpu_labels_may_be_any_integers_in_any_layout(
    op: ModuleType, inputs: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype
) -> None:
    logits, label, weights = inputs
    loss = op.boundary_ce(logits, label, weights, 2.0, align_corners=True)
    across = label.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(op.boundary_ce(logits, across, weights, 2.0, align_corners=True), loss)


@pytest.mark.parametrize(
    "classes",
    [1, 2, 17, 128, 255, *(pytest.param(more, marks=pytest.mark.full) for more in (16, 40, 127))],
)
def test_any_number_of_classes_works(
    op: ModuleType, fused: str, device_of: Callable[[str], torch.device], classes: int
) -> None:
    generator, device = torch.Generator().manual_seed(classes), device_of(fused)
    logits = torch.randn(1, classes, 2, 5, generator=generator, dtype=torch.float64)
    logits = logits.contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, classes, (1, 4, 10), generator=generator)
    weights = torch.rand(classes, generator=generator, dtype=torch.float64)
    x = logits.clone().to(device).requires_grad_()
    loss = op.boundary_ce(x, label.to(device), weights.to(device), 2.0, align_corners=False)
    loss.backward()
    oracle = logits.clone().requires_grad_()
    expected = reference.boundary_ce(oracle, label, weights, 2.0, align_corners=False)
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-13, atol=1e-16)
    assert x.grad is not None
    torch.testing.assert_close(x.grad.cpu(), oracle.grad, rtol=1e-11, atol=1e-16)
