"""`ViewSum`: views that wait for one another add the same as views that do not."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from engine.views.view_sum import ViewSum
from kernels.tta_accumulate import View, tta_accumulate, zero_total

TEMPERATURES = (0.5, 1.0)
FRAMES, CLASSES, BASE_HW = 3, 4, (9, 13)
VIEWS = [View(hw, flipped, True) for hw in ((8, 8), BASE_HW) for flipped in (False, True)]


def sum_of(together: bool, parts: Sequence[int]) -> tuple[Tensor, list[int]]:
    """The sum, and how many views each call of the operation had."""
    total = zero_total(FRAMES, len(TEMPERATURES), CLASSES, BASE_HW, torch.device("cpu"))
    calls: list[int] = []

    def counted(
        sum_: Tensor, logits: Sequence[Tensor], at: Sequence[float], views: Sequence[View]
    ) -> None:
        calls.append(len(views))
        tta_accumulate(sum_, logits, at, views)

    def logits_of(number: int) -> Iterator[Tensor]:
        """Frame by frame or more at once, each part in the memory of the last, as a replay's."""
        generator = torch.Generator().manual_seed(number)
        logits = torch.randn(FRAMES, CLASSES, 2, 3, generator=generator)
        memory = torch.empty(FRAMES, CLASSES, 2, 3).to(memory_format=torch.channels_last)
        for part in torch.split(logits, list(parts)):
            memory[: len(part)] = part
            yield memory[: len(part)]
        memory.fill_(torch.nan)

    views = ViewSum(total, TEMPERATURES, counted, together=together)
    for number, view in enumerate(VIEWS):
        views.add(logits_of(number), view)
    views.finish()
    views.finish()  # adds nothing twice
    return total, calls


@pytest.mark.parametrize("parts", [(3,), (2, 1), (1, 1, 1)])
def test_views_that_wait_for_one_another_add_the_same_in_one_call(parts: Sequence[int]) -> None:
    one_by_one, calls = sum_of(together=False, parts=parts)
    assert calls == [1] * (len(VIEWS) * len(parts))
    together, calls = sum_of(together=True, parts=parts)
    assert calls == [len(VIEWS)]
    assert torch.equal(together, one_by_one)
    torch.testing.assert_close(together.sum(2), torch.full_like(together[:, :, 0], len(VIEWS)))


def test_on_a_cpu_views_do_not_wait() -> None:
    total = zero_total(1, 2, CLASSES, BASE_HW, torch.device("cpu"))
    views = ViewSum(total, TEMPERATURES, tta_accumulate)
    views.add([torch.zeros(1, CLASSES, 2, 3)], VIEWS[0])
    assert total.sum() > 0
