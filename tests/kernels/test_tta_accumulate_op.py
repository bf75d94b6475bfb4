"""tta_accumulate as an operation of PyTorch: registration, compilation, repeatable bytes."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels.tta_accumulate import View, zero_total

BASE_HW, VIEW_HW, TEMPERATURES = (6, 9), (8, 12), (0.7, 1.0)


@pytest.fixture
def op(fused: str, operation: Callable[[str, str], ModuleType]) -> ModuleType:
    return operation("tta_accumulate", fused)


@pytest.fixture
def inputs(fused: str, device_of: Callable[[str], torch.device]) -> tuple[Tensor, Tensor]:
    """A sum of views and logits."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, 3, 2, 3, generator=generator)
    total = zero_total(1, len(TEMPERATURES), 3, BASE_HW, torch.device("cpu"))
    return total.to(device_of(fused)), logits.to(device_of(fused))


def test_it_is_registered_as_torch_wants_it(op: ModuleType, inputs: tuple[Tensor, Tensor]) -> None:
    total, logits = inputs
    # Two views of different sizes.
    seen = [logits, logits[..., :2].contiguous()], list(TEMPERATURES)
    whole = [0] * 4
    views = [*VIEW_HW, *whole, 4, 9, *whole], [True, False], [False, True]
    arguments = total, *seen, *views
    done = torch.library.opcheck(torch.ops.roomsmith.tta_accumulate.default, arguments)
    assert set(done.values()) == {"SUCCESS"}


def test_compiled_without_a_break_it_adds_the_same(
    op: ModuleType, inputs: tuple[Tensor, Tensor]
) -> None:
    def mean(total: Tensor, logits: Tensor) -> Tensor:
        views = [View(VIEW_HW, flipped, align_corners=True) for flipped in (False, True)]
        op.tta_accumulate(total, [logits * 2, logits], TEMPERATURES, views)
        return total / 2

    total, logits = inputs
    compiled = torch.compile(mean, fullgraph=True, backend="aot_eager")
    found = compiled(total.clone(), logits)
    assert torch.equal(found, mean(total, logits))
    assert found.sum() > 0


def test_two_runs_give_the_same_bytes(op: ModuleType, inputs: tuple[Tensor, Tensor]) -> None:
    totals = [inputs[0].clone() for _ in range(2)]
    for total in totals:
        op.tta_accumulate(total, [inputs[1]], TEMPERATURES, [View(VIEW_HW, True, True)])
    assert torch.equal(*totals)


@pytest.mark.parametrize("fused", ["cpu"], indirect=True)
def test_the_number_of_threads_changes_no_bit(op: ModuleType) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 12, 15, generator=generator)
    totals = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        total = zero_total(2, 2, 5, (70, 40), torch.device("cpu"))
        op.tta_accumulate(total, [logits], TEMPERATURES, [View((48, 60), False, False)])
        totals.append(total)
    assert torch.equal(totals[0], totals[1])
    assert torch.equal(totals[0], totals[2])


def test_logits_that_need_a_gradient_may_be_added(
    op: ModuleType, inputs: tuple[Tensor, Tensor]
) -> None:
    total, logits = inputs
    with torch.no_grad():
        view = View(VIEW_HW, flipped=False, align_corners=True)
        op.tta_accumulate(total, [logits.requires_grad_()], TEMPERATURES, [view])
    torch.testing.assert_close(total.sum(2), torch.ones_like(total[:, :, 0]))
