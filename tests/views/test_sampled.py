"""The sample of labelled pixels that losses and calibration are measured on."""

import math

import pytest
import torch
import torch.nn.functional as F

from engine.views.sampled import LEAST, STEP, loss_sum, sample_pixels
from kernels.tta_accumulate import zero_total

B, T, C = 2, 3, 4


def probabilities(hw: tuple[int, int]) -> torch.Tensor:
    """Of the layout that a CPU's sum has."""
    rng = torch.Generator().manual_seed(0)
    prob_BTCHW = zero_total(B, T, C, hw, torch.device("cpu"))
    return prob_BTCHW.add_(torch.randn(B, T, C, *hw, generator=rng).softmax(2))


def labels(hw: tuple[int, int]) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    label_BHW = torch.randint(0, C, (B, *hw), generator=rng, dtype=torch.uint8)
    label_BHW[torch.rand(label_BHW.shape, generator=rng) < 0.2] = 255
    return label_BHW


# As large as the labels; smaller, larger, and of sides that do not divide by the step.
@pytest.mark.parametrize("hw", [(48, 64), (24, 32), (61, 90), (96, 40)])
@pytest.mark.parametrize("label_hw", [(48, 64), (49, 65)])
def test_it_is_what_resizing_all_pixels_gives_at_every_eighth(
    hw: tuple[int, int], label_hw: tuple[int, int]
) -> None:
    prob_BTChw, label_BHW = probabilities(hw), labels(label_hw)
    found = sample_pixels(prob_BTChw, label_BHW)
    wide = F.interpolate(prob_BTChw.flatten(0, 1), label_hw, mode="bilinear").view(
        B, T, C, *label_hw
    )
    every = slice(STEP // 2, None, STEP)
    wide, label_BRS = wide[..., every, every], label_BHW[:, every, every].long()
    assert torch.equal(found.labelled_BRS, label_BRS != 255)
    assert found.labelled_BRS.any()
    assert not found.labelled_BRS.all()
    torch.testing.assert_close(found.largest_BTRS, wide.amax(2), rtol=0, atol=1e-6)
    for t in range(T):
        truth = wide[:, t].gather(1, label_BRS.clamp(max=C - 1)[:, None])[:, 0]
        truth = truth.where(label_BRS != 255, torch.ones(()))
        torch.testing.assert_close(found.truth_BTRS[:, t], truth, rtol=0, atol=1e-6)


def test_the_loss_is_the_sum_over_labelled_pixels() -> None:
    prob_BChw, label_BHW = probabilities((48, 64))[:, 0], labels((48, 64))
    every = slice(STEP // 2, None, STEP)
    label_BRS = label_BHW[:, every, every].long()
    loss = F.nll_loss(
        prob_BChw[..., every, every].double().log(), label_BRS, ignore_index=255, reduction="sum"
    )
    found = loss_sum(prob_BChw, label_BHW)
    assert found[0].item() == pytest.approx(loss.item(), rel=1e-12)
    assert found[1].item() == (label_BRS != 255).sum().item()


def test_a_probability_that_was_rounded_to_0_counts_as_the_smallest_normal_one() -> None:
    prob_BChw = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 8, 8)
    found = loss_sum(prob_BChw, torch.ones(1, 8, 8, dtype=torch.uint8))
    assert found.tolist() == [pytest.approx(-math.log(LEAST)), 1.0]


def test_a_frame_of_one_pixel_is_its_sample_and_no_label_is_no_loss() -> None:
    prob_BChw = torch.full((1, 2, 1, 1), 0.5)
    one = loss_sum(prob_BChw, torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert one.tolist() == [pytest.approx(math.log(2)), 1.0]
    none = loss_sum(prob_BChw, torch.full((1, 1, 1), 255, dtype=torch.uint8))
    assert none.tolist() == [0.0, 0.0]
