"""Recorded steps and passes do what the same Python would; they need a GPU."""

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.config import Config
from engine.data.batch import Batch
from engine.model.network import build_network
from engine.runtime.device import set_up_device
from engine.runtime.graphs import EAGER_CALLS, Replayed
from engine.training.step import (
    Ema,
    EpochSums,
    Learner,
    TrainingLoss,
    TrainStep,
    class_weights,
    make_optimizer,
)

STEPS = 2 * EAGER_CALLS


@pytest.mark.gpu
def test_replays_take_new_inputs_and_give_what_the_function_gives() -> None:
    calls = []

    def double(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return 2 * x

    recorded = Replayed(double)
    for number in range(STEPS):
        for size in (3, 5):
            x = torch.full((size,), float(number), device="cuda")
            assert torch.equal(recorded(x), 2 * x)
    # Eagerly, then once more while it was recorded, for each of the two shapes.
    assert len(calls) == 2 * (EAGER_CALLS + 1)


@pytest.mark.gpu
def test_recorded_steps_train_the_same_weights(tiny_config: Config) -> None:
    ends: dict[str, list[dict[str, Tensor]]] = {"auto": [], "off": []}
    for graphs in ("auto", "off", "off"):
        runtime = tiny_config.runtime.model_copy(
            update={"device": "cuda", "precision": "fp32", "cuda_graphs": graphs}
        )
        training = tiny_config.training.model_copy(update={"clip_norm": 1.0})
        config = tiny_config.model_copy(update={"training": training, "runtime": runtime})
        policy = set_up_device(runtime)
        assert policy.replay == (graphs == "auto")
        torch.manual_seed(0)
        network = build_network(config.model, 13).to(policy.device).train()
        learner = Learner(
            network,
            Ema(network, training.ema_decay, warmup=False),
            make_optimizer(network, training),
            EpochSums(policy.device),
        )
        weights_C = class_weights(training, config.data.classes, policy.device)
        step = TrainStep(learner, TrainingLoss(training, weights_C, policy.operations), policy, 0)
        for number in range(STEPS):
            generator = torch.Generator().manual_seed(number)
            image = torch.randn(2, 3, 32, 64, generator=generator)
            depth = 5 * torch.rand(2, 32, 64, generator=generator)
            label = torch.randint(0, 13, (2, 32, 64), generator=generator).byte()
            image = image.to(policy.device, memory_format=torch.channels_last)
            batch = Batch(image, depth.to(policy.device), label.to(policy.device), np.arange(2))
            # Another learning rate and other dropout at every step: neither is recorded.
            step(batch, 1e-2 / (number + 1), number, number)
        ends[graphs].append({"losses": learner.sums.sums, **learner.ema.network.state_dict()})
    # Gradients of a GPU are added up in no fixed order: two equal runs differ, and so may these.
    (replay,), (eager, again) = ends["auto"], ends["off"]
    for key, value in eager.items():
        spread = float((again[key] - value).abs().max())
        torch.testing.assert_close(replay[key], value, rtol=1e-4, atol=1e-5 + 4 * spread)
