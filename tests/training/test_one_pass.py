"""A step in one pass against PyTorch's passes: weights, average, norm, state, hooks."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.config import Config, TrainingConfig
from engine.data.batch import Batch
from engine.model.network import build_network
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.checkpoint import checkpoint_of, load_last, save_last
from engine.training.one_pass import OnePassAdamW
from engine.training.records import Position
from engine.training.starts import restore
from engine.training.step import (
    Ema,
    EpochSums,
    Learner,
    TrainingLoss,
    TrainStep,
    class_weights,
    make_optimizer,
)

CPU = torch.device("cpu")
OPERATIONS = choose_operations("fused", CPU)
EAGER = DevicePolicy(CPU, None, compile=False, operations=OPERATIONS)


def make_batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, 32, 64, generator=generator)
    depth = 5 * torch.rand(2, 32, 64, generator=generator)
    label = torch.randint(0, 13, (2, 32, 64), generator=generator).byte()
    return Batch(image.to(memory_format=torch.channels_last), depth, label, np.arange(2))


def make_step(config: Config, *, one_pass: bool, seed: int = 0, **training: Any) -> TrainStep:
    section = config.training.model_copy(update=training)
    torch.manual_seed(seed)
    network = build_network(config.model, 13).train()
    ema = Ema(network, section.ema_decay, warmup=True)
    optimizer = make_optimizer(network, section, ema if one_pass else None)
    learner = Learner(network, ema, optimizer, EpochSums(CPU))
    weights_C = class_weights(section, config.data.classes, CPU)
    return TrainStep(learner, TrainingLoss(section, weights_C, OPERATIONS), EAGER, 0)


def states(step: TrainStep) -> list[dict[str, Tensor]]:
    return [n.state_dict() for n in (step.learner.network, step.learner.ema.network)]


def assert_near(one: TrainStep, other: TrainStep) -> None:
    for ours, theirs in zip(states(one), states(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], rtol=2e-5, atol=2e-6, msg=key)


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_a_step_in_one_pass_is_torchs_step(tiny_config: Config, clip_norm: float) -> None:
    # One: then the last bits of weights differ, and Adam makes gradients near 0 as long as others.
    ours, theirs = (make_step(tiny_config, one_pass=o, clip_norm=clip_norm) for o in (True, False))
    for step in (ours, theirs):
        step(make_batch(0), 1e-3, 0, 7)
    assert_near(ours, theirs)
    found, expected = (step.learner.sums.means() for step in (ours, theirs))
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(p.grad is None for p in ours.learner.network.parameters())


def test_a_loss_that_is_not_finite_is_noted_and_the_weights_go_as_torchs(
    tiny_config: Config,
) -> None:
    ours, theirs = (make_step(tiny_config, one_pass=o) for o in (True, False))
    batch = make_batch(0)
    batch.depth_BHW[0, 3, 4] = float("inf")
    batch.image_BCHW[0, 0, 3, 4] = float("nan")
    for step in (ours, theirs):
        step(make_batch(1), 1e-3, 0, 0)
        step(batch, 1e-3, 1, 1)
        assert int(step.learner.sums.first_bad_step) == 1
    for one, other in zip(states(ours), states(theirs), strict=True):
        for key, value in one.items():
            assert torch.equal(torch.isfinite(value), torch.isfinite(other[key])), key


@pytest.mark.parametrize("from_one_pass", [True, False])
def test_a_checkpoint_of_either_goes_on_in_the_other(
    tiny_config: Config, tmp_path: Path, from_one_pass: bool
) -> None:
    begun = make_step(tiny_config, one_pass=from_one_pass)
    for number in range(2):
        begun(make_batch(number), 1e-3, number, number)
    path = tmp_path / "last.pt"
    save_last(path, checkpoint_of("hash", Position(0, 2, 1.0), begun.learner))
    saved = load_last(path, "hash")
    assert saved is not None
    other = make_step(tiny_config, one_pass=not from_one_pass, seed=1)
    restore(saved, other.learner)
    for number in range(2, 4):
        for step in (begun, other):
            step(make_batch(number), 1e-3, number, number)
    assert_near(begun, other)
    counts = {float(state["step"]) for state in other.learner.optimizer.state.values()}
    assert counts == {4.0}
    saved_keys = [copy.deepcopy(s.learner.optimizer.state_dict()) for s in (begun, other)]
    one, two = (state["param_groups"][0] for state in saved_keys)
    assert one.keys() == two.keys()


def test_hooks_see_the_gradients_before_the_step_and_run_after_it(tiny_config: Config) -> None:
    step, seen = make_step(tiny_config, one_pass=True), list[str]()
    optimizer = step.learner.optimizer
    parameters = list(step.learner.network.parameters())
    optimizer.register_step_pre_hook(
        lambda *_: seen.extend(["gradient"] * all(p.grad is not None for p in parameters))
    )
    optimizer.register_step_post_hook(lambda *_: seen.append("done"))
    step(make_batch(0), 1e-3, 0, 0)
    assert seen == ["gradient", "done"]


@pytest.fixture(params=["cpu", "triton"])
def two(
    request: pytest.FixtureRequest, kernel_operation: Callable[[str], object]
) -> tuple[OnePassAdamW, list[nn.Parameter], list[Tensor]]:
    """One of two groups, its parameters 1 and their averages 0."""
    kernel_operation(request.param)
    parameters = [nn.Parameter(torch.ones(5)) for _ in range(3)]
    averages = [torch.zeros(5) for _ in parameters]
    optimizer = OnePassAdamW(parameters[:1], averages, torch.tensor(0.5), 0.1, clip_norm=0.0)
    optimizer.add_param_group({"params": parameters[1:], "weight_decay": 0.0})
    optimizer.average_weight.fill_(0.25)
    return optimizer, parameters, averages


@pytest.fixture
def kernel_operation(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Has the kernel run in Triton's interpreter, or PyTorch in its place."""
    from kernels import gpu

    return lambda kind: monkeypatch.setattr(gpu, "uses_triton", lambda _: kind == "triton")


def test_a_parameter_without_a_gradient_stays_and_its_average_moves(
    two: tuple[OnePassAdamW, list[nn.Parameter], list[Tensor]],
) -> None:
    optimizer, parameters, averages = two
    for parameter in parameters[:2]:
        parameter.grad = torch.zeros(5)
    optimizer.step()
    # Decay moves the first: lr 0.5 x decay 0.1. The second's group has none; nothing moves it.
    assert [float(p.detach()[0]) for p in parameters] == pytest.approx([0.95, 1.0, 1.0])
    assert [float(a[0]) for a in averages] == pytest.approx([0.2375, 0.25, 0.25])
    assert set(optimizer.state) == set(parameters[:2])
    assert float(optimizer.gradient_norm) == 0.0


def test_gradients_may_lie_elsewhere_in_each_step_and_come_and_go(
    two: tuple[OnePassAdamW, list[nn.Parameter], list[Tensor]],
) -> None:
    optimizer, parameters, _ = two
    plain = [nn.Parameter(p.detach().clone()) for p in parameters]
    groups: list[dict[str, Any]] = [
        {"params": plain[:1], "weight_decay": 0.1},
        {"params": plain[1:]},
    ]
    theirs = torch.optim.AdamW(groups, lr=0.5, weight_decay=0.0)
    for number in range(4):
        for n, pair in enumerate(zip(parameters, plain, strict=True)):
            generator = torch.Generator().manual_seed(10 * number + n)
            given = torch.randn(5, generator=generator) if n != number else None
            for parameter in pair:
                parameter.grad = None if given is None else given.clone()
        optimizer.step()
        theirs.step()
    for ours, other in zip(parameters, plain, strict=True):
        torch.testing.assert_close(ours.detach(), other.detach())


def test_moments_that_lie_otherwise_are_laid_out_as_the_parameter(
    kernel_operation: Callable[[str], object],
) -> None:
    kernel_operation("triton")
    parameter = nn.Parameter(torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    optimizer = OnePassAdamW(
        [parameter], [torch.zeros_like(parameter)], torch.tensor(0.1), 0.0, clip_norm=0.0
    )
    state = optimizer.state[parameter]
    state |= {"step": torch.ones(()), "exp_avg": torch.randn(4, 3, 2, 2)}
    state["exp_avg_sq"] = torch.rand(4, 3, 2, 2)
    plain = nn.Parameter(parameter.detach().clone())
    theirs = torch.optim.AdamW([plain], lr=0.1, weight_decay=0.0)
    theirs.state[plain] = {key: value.clone() for key, value in state.items()}
    for one in (parameter, plain):
        one.grad = torch.ones_like(one)
    optimizer.step()
    theirs.step()
    torch.testing.assert_close(parameter.detach(), plain.detach())


def test_groups_of_different_betas_and_closures_are_refused(tiny_config: Config) -> None:
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    averages = [torch.ones(1) for _ in parameters]
    optimizer = OnePassAdamW(parameters[:1], averages, torch.tensor(0.1), 0.0, clip_norm=0.0)
    optimizer.add_param_group({"params": parameters[1:], "betas": (0.5, 0.5)})
    for parameter in parameters:
        parameter.grad = torch.ones(1)
    with pytest.raises(ValueError, match="share betas and eps"):
        optimizer.step()
    with pytest.raises(ValueError, match="without a closure"):
        optimizer.step(lambda: 0.0)


def test_it_is_chosen_by_an_average_and_reads_the_config(tiny_config: Config) -> None:
    network = nn.Linear(2, 2)
    config = TrainingConfig(lr=3e-3, weight_decay=0.05, clip_norm=2.0)
    ema = Ema(network, 0.9, warmup=False)
    optimizer = make_optimizer(network, config, ema)
    assert isinstance(optimizer, OnePassAdamW)
    (group,) = optimizer.param_groups
    assert float(group["lr"]) == pytest.approx(3e-3)
    assert (group["weight_decay"], optimizer.clip_norm) == (0.05, 2.0)
    assert type(make_optimizer(network, config)) is torch.optim.AdamW
