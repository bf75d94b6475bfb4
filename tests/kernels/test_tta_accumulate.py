"""tta_accumulate against its steps written out, and what must hold for any view."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.tta_accumulate import tta_accumulate

TEMPERATURES = (0.7, 1.0, 2.0)

# Logits reach 16 and float32 positions within them err by some 1e-6 of the difference of cells.
ROUNDING = 1e-5

# Base size and view size: as large, smaller, larger, and with odd sides.
SIZES = [((32, 64), (32, 64)), ((32, 64), (64, 96)), ((64, 64), (32, 32)), ((47, 61), (32, 64))]


def logits_of(view_hw: tuple[int, int], *, batch: int = 2, classes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(view_hw[0] * 1000 + view_hw[1])
    return 4 * torch.randn(batch, classes, view_hw[0] // 4, view_hw[1] // 4, generator=generator)


def accumulated(
    logits: Tensor,
    base_hw: tuple[int, int],
    view_hw: tuple[int, int],
    *,
    flipped: bool = False,
    temperatures: tuple[float, ...] = TEMPERATURES,
    align_corners: bool = True,
    total: Tensor | None = None,
) -> Tensor:
    if total is None:
        total = torch.zeros(len(logits), len(temperatures), logits.shape[1], *base_hw)
    tta_accumulate(
        total, logits, temperatures, view_hw=view_hw, flipped=flipped, align_corners=align_corners
    )
    return total


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("base_hw", "view_hw"), SIZES)
def test_it_is_the_mean_of_float64_steps(
    base_hw: tuple[int, int], view_hw: tuple[int, int], align_corners: bool, flipped: bool
) -> None:
    logits = logits_of(view_hw)
    total = accumulated(logits, base_hw, view_hw, flipped=flipped, align_corners=align_corners)
    u = F.interpolate(logits.double(), size=view_hw, mode="bilinear", align_corners=align_corners)
    for t, temperature in enumerate(TEMPERATURES):
        prob = (u / temperature).softmax(1)
        prob = prob.flip(-1) if flipped else prob
        expected = F.interpolate(prob, size=base_hw, mode="bilinear", align_corners=False)
        torch.testing.assert_close(total[:, t].double(), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("base_hw", "view_hw"), SIZES)
def test_a_mirrored_view_of_an_equivariant_network_adds_the_same(
    base_hw: tuple[int, int], view_hw: tuple[int, int]
) -> None:
    logits = logits_of(view_hw)
    upright = accumulated(logits, base_hw, view_hw)
    mirrored = accumulated(logits.flip(-1), base_hw, view_hw, flipped=True)
    torch.testing.assert_close(mirrored, upright, rtol=0, atol=ROUNDING)


def test_the_probabilities_of_a_pixel_sum_to_the_number_of_views() -> None:
    base_hw, total = (47, 61), None
    for _, view_hw in SIZES:
        for flipped in (False, True):
            logits = logits_of(view_hw)
            total = accumulated(logits, base_hw, view_hw, flipped=flipped, total=total)
    assert total is not None
    views = torch.full((2, len(TEMPERATURES), *base_hw), 2.0 * len(SIZES))
    torch.testing.assert_close(total.sum(2), views)
    assert total.min() >= 0


def test_temperatures_in_one_pass_are_those_of_single_passes() -> None:
    base_hw, view_hw = SIZES[1]
    together = accumulated(logits_of(view_hw), base_hw, view_hw)
    for t, temperature in enumerate(TEMPERATURES):
        alone = accumulated(logits_of(view_hw), base_hw, view_hw, temperatures=(temperature,))
        assert torch.equal(alone[:, 0], together[:, t])


def test_a_lower_temperature_is_surer() -> None:
    base_hw, view_hw = SIZES[0]
    total = accumulated(logits_of(view_hw), base_hw, view_hw)
    cold, warm, hot = total.amax(2).mean((0, 2, 3)).tolist()
    assert cold > warm > hot


def test_adding_1000_to_all_logits_changes_nothing_and_10000_stays_finite() -> None:
    base_hw, view_hw = SIZES[1]
    logits = logits_of(view_hw)
    near, far = (accumulated(x, base_hw, view_hw) for x in (logits, logits + 1000))
    torch.testing.assert_close(far, near, rtol=0, atol=2e-3)  # 1000 costs float32 ten bits
    assert accumulated(1e4 * logits.sign(), base_hw, view_hw).isfinite().all()


def test_only_the_sum_is_written() -> None:
    base_hw, view_hw = SIZES[1]
    logits = logits_of(view_hw)
    before = logits.clone()
    total = torch.full((2, 3, 4, *base_hw), 0.5)
    accumulated(logits, base_hw, view_hw, total=total)
    assert torch.equal(logits, before)
    torch.testing.assert_close(total - 0.5, accumulated(logits, base_hw, view_hw))


def test_half_precision_logits_are_summed_in_float32() -> None:
    base_hw, view_hw = SIZES[0]
    logits = logits_of(view_hw).to(torch.bfloat16)
    total = accumulated(logits, base_hw, view_hw)
    assert torch.equal(total, accumulated(logits.float(), base_hw, view_hw))


@pytest.mark.parametrize(
    ("shape", "temperatures"),
    [((2, 3, 4, 8, 8), 2), ((1, 3, 4, 8, 8), 3), ((2, 3, 5, 8, 8), 3)],
    ids=["temperatures", "batch", "classes"],
)
def test_a_sum_that_does_not_fit_is_refused(shape: tuple[int, ...], temperatures: int) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, T, C, H, W\)"):
        accumulated(
            logits_of((32, 32)),
            (8, 8),
            (32, 32),
            temperatures=(1.0,) * temperatures,
            total=torch.zeros(shape),
        )
