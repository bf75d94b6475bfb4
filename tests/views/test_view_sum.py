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


def logits_of(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(FRAMES, CLASSES, 2, 3, generator=generator)


@pytest.mark.parametrize("parts", [(3,), (2, 1), (1, 1, 1)])
def test_all_views_are_added_in_one_call_as_they_would_be_one_by_one(parts: Sequence[int]) -> None:
    total, one_by_one = (
        zero_total(FRAMES, len(TEMPERATURES), CLASSES, BASE_HW, torch.device("cpu"))
        for _ in range(2)
    )
    calls: list[int] = []

    def counted(
        sum_: Tensor, logits: Sequence[Tensor], at: Sequence[float], views: Sequence[View]
    ) -> None:
        calls.append(len(views))
        tta_accumulate(sum_, logits, at, views)

    def passes(number: int) -> Iterator[Tensor]:
        """Frame by frame or more at once, each part in the memory of the last, as a replay's."""
        memory = torch.empty(FRAMES, CLASSES, 2, 3).to(memory_format=torch.channels_last)
        for part in torch.split(logits_of(number), list(parts)):
            memory[: len(part)] = part
            yield memory[: len(part)]
        memory.fill_(torch.nan)

    views = ViewSum(total, TEMPERATURES, counted)
    for number, view in enumerate(VIEWS):
        views.add(passes(number), view)
        tta_accumulate(one_by_one, [logits_of(number)], TEMPERATURES, [view])
    views.finish()
    views.finish()  # adds nothing twice
    assert calls == [len(VIEWS)]
    assert torch.equal(total, one_by_one)
    torch.testing.assert_close(total.sum(2), torch.full_like(total[:, :, 0], len(VIEWS)))
