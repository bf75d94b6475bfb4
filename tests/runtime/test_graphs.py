"""Recorded steps and passes do what the same Python would, and leave nothing behind.

What they compute needs a GPU; how they ask for it is seen on a stand-in for PyTorch's.
"""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import Config
from engine.data.batch import Batch
from engine.model.network import build_network
from engine.runtime.device import DevicePolicy, choose_operations, set_up_device
from engine.runtime.graphs import EAGER_CALLS, Replayed, free_recordings
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


class Graph:
    """Stands for a CUDA graph, whose replay computes nothing."""

    def replay(self) -> None:
        pass


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for PyTorch's CUDA graphs, on the CPU; what each recording was asked for with."""
    asked: list[dict[str, Any]] = []

    @contextmanager
    def graph(graph: Graph, pool: str, stream: object, **named: Any) -> Iterator[None]:
        asked.append({"pool": pool, "stream": stream, **named})
        yield

    stream = SimpleNamespace(wait_stream=lambda _: None)
    for name, stand_in in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: nullcontext(),
        "graph_pool_handle": lambda: "pool",
        "CUDAGraph": Graph,
        "synchronize": lambda: None,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return asked


def test_a_recording_is_not_spoilt_by_what_other_threads_do(recorded: list[dict[str, Any]]) -> None:
    double = Replayed(lambda x: 2 * x)
    for _ in range(STEPS):
        double(torch.ones(3))
    assert [asked["capture_error_mode"] for asked in recorded] == ["thread_local"]
    assert recorded[0]["pool"] == "pool"


def make_step(config: Config, policy: DevicePolicy) -> TrainStep:
    """A step of a network of random weights."""
    torch.manual_seed(0)
    network = build_network(config.model, 13).to(policy.device).train()
    training = config.training
    learner = Learner(
        network,
        Ema(network, training.ema_decay, warmup=False),
        make_optimizer(network, training),
        EpochSums(policy.device),
    )
    weights_C = class_weights(training, config.data.classes, policy.device)
    return TrainStep(learner, TrainingLoss(training, weights_C, policy.operations), policy, 0)


def make_batch(number: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(number)
    image = torch.randn(2, 3, 32, 64, generator=generator)
    depth = 5 * torch.rand(2, 32, 64, generator=generator)
    label = torch.randint(0, 13, (2, 32, 64), generator=generator).byte()
    image = image.to(device, memory_format=torch.channels_last)
    return Batch(image, depth.to(device), label.to(device), np.arange(2))


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_step_that_nobody_holds_is_gone_at_once_and_its_recording_and_network_with_it(
    deterministic: bool, recorded: list[dict[str, Any]], tiny_config: Config
) -> None:
    cpu = torch.device("cpu")
    operations = choose_operations("reference", cpu)
    policy = DevicePolicy(cpu, None, False, operations, True, deterministic)
    step = make_step(tiny_config, policy)
    for number in range(STEPS):
        step(make_batch(number, cpu), 1e-2, number, number)
    assert len(recorded) == 1
    parts = [step, step.update, step.learner.network, step.learner.optimizer]
    living = [weakref.ref(part) for part in parts]
    gc.collect()
    gc.disable()
    try:
        del step, parts
        assert [ref() for ref in living] == [None] * 4
    finally:
        gc.enable()


def test_what_is_freed_between_folds_is_collected_and_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    gone: list[bool] = []
    cycle = weakref.ref(Cycle())
    # Collected before the memory is given back, not after.
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: gone.append(cycle() is None))
    free_recordings()
    assert gone == [True]


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
        step = make_step(config, policy)
        for number in range(STEPS):
            batch = make_batch(number, policy.device)
            # Another learning rate and other dropout at every step: neither is recorded.
            step(batch, 1e-2 / (number + 1), number, number)
        learner = step.learner
        ends[graphs].append({"losses": learner.sums.sums, **learner.ema.network.state_dict()})
    # Gradients of a GPU are added up in no fixed order: two equal runs differ, and so may these.
    (replay,), (eager, again) = ends["auto"], ends["off"]
    for key, value in eager.items():
        spread = float((again[key] - value).abs().max())
        torch.testing.assert_close(replay[key], value, rtol=1e-4, atol=1e-5 + 4 * spread)


@pytest.mark.gpu
def test_a_replay_draws_dropout_anew_from_the_seed_before_it() -> None:
    # FPN drops channels by a mask of its own, DeepLabV3+ elements, a timm encoder paths.
    elements = nn.Dropout(0.5)

    def drop(x: Tensor) -> Tensor:
        channels = F.dropout(x.new_ones(4, 8, 1, 1), 0.2)
        paths = x.new_empty(4, 1, 1, 1).bernoulli_(0.5)
        return torch.cat([(channels * x).flatten(), elements(x).flatten(), (paths * x).flatten()])

    x = torch.ones(4, 8, 16, 16, device="cuda")
    recording, drawn = Replayed(drop), []
    for seed in range(STEPS):
        torch.manual_seed(seed)
        drawn.append(recording(x).clone())
        torch.manual_seed(seed)
        assert torch.equal(drawn[-1], drop(x)), f"call {seed} is not what its seed draws"
    assert not any(torch.equal(a, b) for a, b in pairwise(drawn))
