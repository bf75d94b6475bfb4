"""The learning rate of a step at known points, and what the optimiser is."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from engine.config import TrainingConfig
from engine.training.optim import learning_rate, make_optimizer

STEPS = 10


def rates(**fields: object) -> list[float]:
    config = TrainingConfig.model_validate(fields)
    return [learning_rate(config, s, STEPS) for s in range(config.epochs * STEPS)]


def test_the_reports_cosine_holds_through_an_epoch() -> None:
    lr = rates(lr=1e-4, epochs=50)
    assert lr[0] == lr[STEPS - 1] == 1e-4
    assert lr[25 * STEPS] == pytest.approx(0.5e-4)
    assert lr[-1] == pytest.approx(1e-4 * (1 + math.cos(math.pi * 49 / 50)) / 2)
    assert all(len(set(lr[e * STEPS : (e + 1) * STEPS])) == 1 for e in range(50))


def test_the_reports_cosine_is_torchs_scheduler_stepped_once_an_epoch() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    ours = rates(lr=3e-4, epochs=8)[::STEPS]
    for lr in ours:
        assert lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_in_equal_steps_to_the_peak_and_then_falls_to_almost_0() -> None:
    lr = rates(lr=1.0, epochs=10, schedule="warmup_cosine", warmup=0.1)
    assert lr[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert lr[10] == 1.0
    assert lr[10 + 45] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(lr[10:]))
    assert 0 < lr[-1] < 1e-3


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.0), (1, 0.99), (3, 0.5), (1, 0.04)], ids=str)
def test_any_share_of_warm_up_gives_rates_within_0_and_the_peak(epochs: int, warmup: float) -> None:
    lr = rates(lr=2.0, epochs=epochs, schedule="warmup_cosine", warmup=warmup)
    assert all(0 < rate <= 2.0 for rate in lr)
    assert max(lr) == 2.0


def test_a_fold_of_one_step_trains_at_the_peak() -> None:
    config = TrainingConfig(epochs=1, schedule="warmup_cosine", lr=0.5)
    assert learning_rate(config, 0, 1) == 0.5


def test_the_optimiser_is_fused_adamw_over_every_parameter() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = make_optimizer(network, TrainingConfig(lr=3e-3, weight_decay=0.05))
    (group,) = optimizer.param_groups
    assert group["params"] == list(network.parameters())
    assert (group["lr"], group["weight_decay"], group["fused"]) == (3e-3, 0.05, True)
