"""Colours mixed in place, against the mathematics."""

from typing import Any

import pytest
import torch

from kernels.recolour import recolour, reference

REGIONS = torch.tensor([[0, 5, 0, 7], [1, 4, 2, 3], [2, 2, 0, 7]])


def given(channels: int = 4) -> list[Any]:
    """Three images of 5 x 7 pixels: mixed everywhere, in a part, nowhere."""
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(3, 5, 7, channels, generator=generator).permute(0, 3, 1, 2)
    mix = torch.randn(3, 4, 3, generator=generator)
    return [image, REGIONS, mix, torch.tensor([[-1.0, -0.5, -2.0], [0.5, 1.5, 0.75]])]


@pytest.mark.parametrize("channels", [3, 4, 7])
def test_regions_are_mixed_and_clipped_as_the_reference_has_it(channels: int) -> None:
    ours, theirs, before = given(channels), given(channels), given(channels)[0]
    recolour(*ours)
    reference.recolour(*theirs)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-6)
    mix, ends = before[0, :3, 4, 6] @ ours[2][0, :3] + ours[2][0, 3], ours[3]
    torch.testing.assert_close(ours[0][0, :3, 4, 6], mix.clamp(ends[0], ends[1]))
    changed = (ours[0] != before).any(dim=1)
    assert changed[0].all()
    assert changed[1].nonzero().tolist() == [[1, 2], [2, 2], [3, 2]]
    assert not changed[2].any()
    assert torch.equal(ours[0][:, 3:], before[:, 3:])


def test_no_rows_are_none() -> None:
    for function in (recolour, reference.recolour):
        image, region, mix, ends = given()
        function(image[:0], region[:0], mix[:0], ends)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, torch.zeros(3, 2, 5, 7), "3 channels or more"),
        (0, torch.zeros(3, 4, 5, 7), "channels-last"),
        (0, torch.zeros(3, 5, 7, 4, dtype=torch.float64).permute(0, 3, 1, 2), "need float32"),
        (1, REGIONS[:2], "must be"),
        (1, REGIONS + 1, r"region \[1, 6, 1, 8\] leaves an image of 5 x 7"),
        (2, torch.zeros(3, 3, 3), "must be"),
    ],
)
def test_what_does_not_fit_is_refused(place: int, wrong: Any, message: str) -> None:
    arguments = given()
    arguments[place] = wrong
    with pytest.raises(ValueError, match=message):
        recolour(*arguments)
