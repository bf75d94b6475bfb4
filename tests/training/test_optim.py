"""The learning rate at known points, the optimiser, and the average against a plain loop."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from engine.config import TrainingConfig
from engine.training.step import Ema, learning_rate, make_optimizer, set_learning_rate

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


@pytest.mark.parametrize("schedule", ["warmup_cosine", "linear", "one_cycle"])
@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.0), (1, 0.99), (3, 0.5), (1, 0.04)], ids=str)
def test_any_share_of_warm_up_gives_rates_within_0_and_the_peak(
    epochs: int, warmup: float, schedule: str
) -> None:
    lr = rates(lr=2.0, epochs=epochs, schedule=schedule, warmup=warmup)
    assert all(0 < rate <= 2.0 for rate in lr)
    # The peak of one cycle may lie between two steps.
    assert max(lr) == pytest.approx(2.0, rel=0.1 if schedule == "one_cycle" else 0)


def test_a_fold_of_one_step_trains_at_the_peak() -> None:
    for schedule in ("warmup_cosine", "linear", "one_cycle"):
        config = TrainingConfig.model_validate({"epochs": 1, "schedule": schedule, "lr": 0.5})
        assert learning_rate(config, 0, 1) == 0.5


def test_a_straight_line_falls_by_the_same_at_every_step() -> None:
    lr = rates(lr=1.0, epochs=10, schedule="linear", warmup=0.1)
    assert lr[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert lr[10:] == pytest.approx([1 - s / 90 for s in range(90)])


@pytest.mark.parametrize("warmup", [0.1, 0.33, 0.5])
def test_one_cycle_is_torchs(warmup: float) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=50, pct_start=warmup, cycle_momentum=False
    )
    for lr in rates(lr=3e-3, epochs=5, schedule="one_cycle", warmup=warmup):
        assert lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_the_optimiser_is_fused_adamw_over_every_parameter() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = make_optimizer(network, TrainingConfig(lr=3e-3, weight_decay=0.05))
    (group,) = optimizer.param_groups
    assert group["params"] == list(network.parameters())
    assert (group["lr"], group["weight_decay"], group["fused"]) == (3e-3, 0.05, True)
    set_learning_rate(optimizer, 1e-3)
    assert group["lr"] == 1e-3


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Linear(2, 2))


def move(network: nn.Module, step: int) -> None:
    """Stands for a training step: moves every weight, statistic and counter."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.add_(1)


def plain_update(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """As the reports' scripts had it; in float64, so that it is the truth."""
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            average[key] = decay * average[key] + (1 - decay) * value.double()
        else:
            average[key] = value.clone()


@pytest.mark.parametrize("warmup", [False, True])
def test_it_is_a_plain_loop_over_the_state_dict(warmup: bool) -> None:
    network = make_network()
    ema = Ema(network, 0.9, warmup=warmup)
    average = {key: value.double() for key, value in network.state_dict().items()}
    for step in range(100):
        move(network, step)
        plain_update(average, network, min(0.9, (1 + step) / (10 + step)) if warmup else 0.9)
        ema.update(step)
    for key, value in ema.network.state_dict().items():
        torch.testing.assert_close(value.double(), average[key].double(), rtol=1e-5, atol=1e-5)


def test_warm_up_starts_at_a_tenth_and_ends_at_the_decay() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = Ema(network, 0.5, warmup=True)
    nn.init.ones_(network.weight)
    ema.update(0)
    assert float(ema.network.state_dict()["weight"]) == pytest.approx(0.9)  # decay 1 / 10
    ema.update(1000)
    assert float(ema.network.state_dict()["weight"]) == pytest.approx(0.95)  # decay 0.5


def test_a_decay_of_0_copies_the_network() -> None:
    network = make_network()
    ema = Ema(network, 0.0, warmup=False)
    move(network, 0)
    ema.update(0)
    for key, value in ema.network.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key])


def test_it_is_a_frozen_copy_in_evaluation_mode_that_leaves_the_network_alone() -> None:
    network = make_network().train()
    before = copy.deepcopy(network.state_dict())
    ema = Ema(network, 0.9, warmup=False)
    assert not any(module.training for module in ema.network.modules())
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.training
    ema.update(0)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    ours, theirs = ema.network.state_dict(), network.state_dict()
    assert all(ours[key].data_ptr() != theirs[key].data_ptr() for key in ours)


def test_the_average_keeps_the_memory_format_of_the_network() -> None:
    network = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    ema = Ema(network, 0.9, warmup=False)
    ema.update(0)
    assert ema.network.state_dict()["weight"].stride() == network.weight.stride()


def test_a_state_loaded_into_the_average_is_what_it_goes_on_from() -> None:
    network = make_network()
    first, second = (Ema(network, 0.9, warmup=False) for _ in range(2))
    move(network, 0)
    first.update(0)
    second.network.load_state_dict(first.network.state_dict())
    move(network, 1)
    first.update(1)
    second.update(1)
    for key, value in second.network.state_dict().items():
        assert torch.equal(value, first.network.state_dict()[key]), key
