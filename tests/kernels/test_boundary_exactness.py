"""boundary_ce's fused implementations against float64, and what must not change a single bit."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels.boundary_ce import reference

IGNORE = 255
WEIGHTS = (1.0, 1.5, 0.25, 3.0, 1.0)
Evaluate = Callable[..., tuple[Tensor, Tensor]]


def make(
    cells: tuple[int, int], stride: int = 4, *, batch: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Channels-last logits, and labels in patches of 2 x 3 pixels, a fifth of them ignored."""
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(batch, len(WEIGHTS), *cells, generator=generator)
    height, width = cells[0] * stride, cells[1] * stride
    label = torch.randint(0, len(WEIGHTS), (batch, height, width), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE
    label = label.repeat_interleave(2, 1).repeat_interleave(3, 2)[:, :height, :width]
    return logits.to(dtype).contiguous(memory_format=torch.channels_last), label.to(torch.uint8)


def evaluate_with(
    function: Callable[..., Tensor], logits: Tensor, label: Tensor, **options: bool
) -> tuple[Tensor, Tensor]:
    """Loss and gradient, on the CPU."""
    logits = logits.detach().requires_grad_()
    weights = torch.tensor(WEIGHTS, dtype=logits.dtype, device=logits.device)
    loss = function(logits, label, weights, 2.0, **({"align_corners": True} | options))
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach().cpu(), gradient.cpu()


@pytest.fixture
def evaluate(
    fused: str,
    operation: Callable[[str, str], ModuleType],
    device_of: Callable[[str], torch.device],
    monkeypatch: pytest.MonkeyPatch,
) -> Evaluate:
    """Loss and gradient by a fused implementation, whose outputs hold NaN until written.

    Triton's programs are made so small (4 columns, 2 rows of cells; 8 columns, 4 rows of labels)
    that few pixels need many.
    """
    op, device = operation("boundary_ce", fused), device_of(fused)
    for name, value in {"THREADS": 4, "STRIP": 2, "ROWS": 4, "COLUMNS": 8, "CELLS": 4}.items():
        monkeypatch.setattr(op.launch, name, value)

    def evaluate(logits: Tensor, label: Tensor, **options: bool) -> tuple[Tensor, Tensor]:
        before = torch.are_deterministic_algorithms_enabled()
        # Fills new tensors with NaN.
        torch.use_deterministic_algorithms(True)
        try:
            return evaluate_with(op.boundary_ce, logits.to(device), label.to(device), **options)
        finally:
            torch.use_deterministic_algorithms(before)

    return evaluate


def cells_for(fused: str) -> tuple[int, int]:
    """Several tasks and tiles of the Numba kernel, several programs of Triton's."""
    return (19, 70) if fused == "cpu" else (3, 5)


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).abs().max())


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_errs_at_most_twice_as_much_as_the_float32_reference(
    evaluate: Evaluate, fused: str, dtype: torch.dtype, align_corners: bool
) -> None:
    logits, label = make(cells_for(fused), dtype=dtype)
    options = {"align_corners": align_corners}
    true_loss, true_gradient = evaluate_with(
        reference.boundary_ce, logits.double(), label, **options
    )
    loss_32, gradient_32 = evaluate_with(reference.boundary_ce, logits, label, **options)
    loss, gradient = evaluate(logits, label, **options)
    assert loss.dtype == torch.float32
    ulp = torch.finfo(torch.float32).eps * float(true_loss)
    assert error(loss, true_loss) <= 2 * error(loss_32, true_loss) + ulp
    assert gradient.dtype == dtype
    ulp = torch.finfo(dtype).eps * float(true_gradient.abs().max())
    assert error(gradient, true_gradient) <= 2 * error(gradient_32, true_gradient) + ulp


@pytest.mark.parametrize(
    ("stride", "align_corners"),
    [
        (2, True),
        (3, False),
        (4, True),
        pytest.param(2, False, marks=pytest.mark.full),
        pytest.param(3, True, marks=pytest.mark.full),
        pytest.param(4, False, marks=pytest.mark.full),
    ],
)
def test_in_float64_it_is_the_reference_across_tiles_and_strips(
    evaluate: Evaluate, fused: str, stride: int, align_corners: bool
) -> None:
    # The last task or strip has one row: 17 = 2 x 8 + 1, 5 = 2 x 2 + 1.
    cells = (17, 90) if fused == "cpu" else (5, 7)
    logits, label = make(cells, stride, dtype=torch.float64)
    loss, gradient = evaluate(logits, label, align_corners=align_corners)
    true_loss, true_gradient = evaluate_with(
        reference.boundary_ce, logits, label, align_corners=align_corners
    )
    torch.testing.assert_close(loss, true_loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, true_gradient, rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("align_corners", [True, False])
def test_logits_hundreds_apart_give_the_same_softmax(
    evaluate: Evaluate, fused: str, align_corners: bool
) -> None:
    # Without their largest subtracted the powers of such logits overflow, or all vanish.
    logits, label = make(cells_for(fused), dtype=torch.float64)
    logits[:, :, 1:] *= 200
    logits[:, :, :1] -= 500
    for x in (logits, logits.float()):
        loss, gradient = evaluate(x, label, align_corners=align_corners)
        true_loss, true_gradient = evaluate_with(
            reference.boundary_ce, x.double(), label, align_corners=align_corners
        )
        rtol, atol = (1e-12, 1e-16) if x.dtype == torch.float64 else (1e-5, 1e-7)
        torch.testing.assert_close(loss.double(), true_loss, rtol=rtol, atol=0)
        torch.testing.assert_close(gradient.double(), true_gradient, rtol=10 * rtol, atol=atol)


def test_without_a_gradient_the_loss_is_the_same(
    fused: str,
    evaluate: Evaluate,
    operation: Callable[[str, str], ModuleType],
    device_of: Callable[[str], torch.device],
) -> None:
    logits, label = make(cells_for(fused))
    loss, _ = evaluate(logits, label)
    device = device_of(fused)
    alone = operation("boundary_ce", fused).boundary_ce(
        logits.to(device),
        label.to(device),
        torch.tensor(WEIGHTS, device=device),
        2.0,
        align_corners=True,
    )
    assert not alone.requires_grad
    torch.testing.assert_close(alone.cpu(), loss, rtol=2e-7, atol=0)


def test_contiguous_logits_give_the_same_bits_as_channels_last(
    evaluate: Evaluate, fused: str
) -> None:
    logits, label = make(cells_for(fused))
    loss, gradient = evaluate(logits, label)
    for other in (logits.contiguous(), logits.transpose(2, 3).contiguous().transpose(2, 3)):
        other_loss, other_gradient = evaluate(other, label)
        assert torch.equal(other_loss, loss)
        assert torch.equal(other_gradient, gradient)


def test_two_runs_give_the_same_bits(evaluate: Evaluate, fused: str) -> None:
    logits, label = make(cells_for(fused))
    once, again = evaluate(logits, label), evaluate(logits, label)
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])


@pytest.mark.parametrize("fused", ["cpu"], indirect=True)
def test_any_number_of_threads_gives_the_same_bits(evaluate: Evaluate, fused: str) -> None:
    logits, label = make((33, 40), batch=2)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(evaluate(logits, label))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_each_image_of_a_batch_gets_its_own_gradient(evaluate: Evaluate, fused: str) -> None:
    logits, label = make((2, 3), batch=2, dtype=torch.float64)
    _, both = evaluate(logits, label)
    label[1] = IGNORE
    _, first = evaluate(logits, label)
    assert torch.equal(first[1], torch.zeros_like(first[1]))
    # Only the denominator differs: one factor for the whole image.
    ratio = both[0] / first[0]
    torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-9, atol=0)
