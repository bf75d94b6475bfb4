"""The rival's schedule and weight average are the engine's."""

from typing import Literal

import pytest
import torch
from torch import nn

from engine.config import TrainingConfig
from engine.training.step import Ema, learning_rate

pytest.importorskip("albumentations", reason="a rival: pip install 'roomsmith[bench]'")

from benchmarks.plain.run import StateAverage, schedule

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("kind", ["cosine_epoch", "warmup_cosine"])
def test_the_schedule_is_the_engines_at_every_step(
    kind: Literal["cosine_epoch", "warmup_cosine"],
) -> None:
    config = TrainingConfig(epochs=4, lr=3e-3, schedule=kind, warmup=0.2)
    factor = schedule(config, steps_per_epoch=7)
    rates = [config.lr * factor(step) for step in range(28)]
    assert rates == pytest.approx([learning_rate(config, step, 7) for step in range(28)])
    assert len(set(rates)) > 3


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_the_engines_after_every_update(warmup: bool) -> None:
    config = TrainingConfig(ema_decay=0.9, ema_warmup=warmup)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    theirs, ours = StateAverage(network, config), Ema(network, 0.9, warmup=warmup)
    for step in range(12):
        network(torch.randn(2, 3, 8, 8))
        with torch.no_grad():
            network.get_parameter("0.weight").add_(0.1)
        theirs.update(network)
        ours.update(step)
    expected = ours.network.state_dict()
    assert theirs.state.keys() == expected.keys()
    for key, value in theirs.state.items():
        torch.testing.assert_close(value, expected[key])
    assert not torch.equal(theirs.state["0.weight"], network.get_parameter("0.weight"))
