"""One step: what it changes, what it never does, and how it notes a loss that is not finite."""

import copy
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config import Config
from engine.data.accumulate import WHOLE, Shares
from engine.data.batch import Batch
from engine.model.network import Prediction, build_network
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.phases import PhaseClock
from engine.training.records import Losses, MeanLosses
from engine.training.step import (
    Ema,
    EpochSums,
    Learner,
    TrainingLoss,
    TrainStep,
    class_weights,
    make_optimizer,
    step_seed,
)

CPU = torch.device("cpu")
OPERATIONS = choose_operations("fused", torch.device("cpu"))
EAGER = DevicePolicy(CPU, None, compile=False, operations=OPERATIONS)


def make_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, 32, 64, generator=generator)
    depth = 5 * torch.rand(2, 32, 64, generator=generator)
    label = torch.randint(0, 13, (2, 32, 64), generator=generator).byte()
    return Batch(image.to(memory_format=torch.channels_last), depth, label, np.arange(2))


def make_step(
    config: Config, *, policy: DevicePolicy = EAGER, fold: int = 0, **training: Any
) -> TrainStep:
    section = config.training.model_copy(update=training)
    torch.manual_seed(0)
    network = build_network(config.model, 13).train()
    learner = Learner(
        network,
        Ema(network, section.ema_decay, warmup=False),
        make_optimizer(network, section),
        EpochSums(CPU),
    )
    weights_C = class_weights(section, config.data.classes, CPU)
    return TrainStep(learner, TrainingLoss(section, weights_C, policy.operations), policy, fold)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_step_moves_weights_and_average_and_adds_up_losses(tiny_config: Config) -> None:
    step = make_step(tiny_config)
    learner = step.learner
    before = weights_of(learner.network)
    step(make_batch(), 1e-2, 0, 0)
    after = weights_of(learner.network)
    assert not any(torch.equal(before[key], after[key]) for key in before if "weight" in key)
    for key, value in weights_of(learner.ema.network).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.lerp(before[key], after[key], 0.1))
    means = learner.sums.means()
    assert means.loss == pytest.approx(means.segmentation_loss + 0.1 * means.depth_loss, rel=1e-6)
    assert int(learner.sums.first_bad_step) == -1
    assert all(parameter.grad is None for parameter in learner.network.parameters())


def test_losses_are_averaged_over_the_steps_that_were_added() -> None:
    sums = EpochSums(CPU)
    assert sums.means() == MeanLosses(0.0, 0.0, 0.0)
    for step, losses in enumerate(([3.0, 2.0, 1.0], [1.0, 1.0, 0.0])):
        sums.add(torch.tensor(losses), torch.tensor(1.0), step)
    assert sums.means() == MeanLosses(loss=2.0, segmentation_loss=1.5, depth_loss=0.5)


def test_a_step_depends_on_its_position_in_the_fold_and_on_nothing_before(
    tiny_config: Config,
) -> None:
    ends = []
    for position, noise in ((7, 0), (7, 1), (8, 0)):
        step = make_step(tiny_config)
        torch.manual_seed(noise)  # whatever was drawn before must not matter
        step(make_batch(), 1e-2, 1, position)
        ends.append(weights_of(step.learner.network))
    assert equal(ends[0], ends[1])
    assert not equal(ends[0], ends[2]), "dropout and dropped paths differ from step to step"


def test_seeds_differ_between_runs_folds_and_steps_and_fit_64_bits() -> None:
    seeds = {step_seed(a, b, c) for a in range(3) for b in range(3) for c in range(-1, 30)}
    assert len(seeds) == 3 * 3 * 31
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_learning_rate_is_the_steps_own(tiny_config: Config) -> None:
    step = make_step(tiny_config, weight_decay=0.0)
    before = weights_of(step.learner.network)
    step(make_batch(), 0.0, 0, 0)
    named = dict(step.learner.network.named_parameters())
    assert all(torch.equal(before[key], value) for key, value in named.items())


def gradients_of(config: Config, batch: Batch, accumulate: int) -> tuple[list[Tensor], MeanLosses]:
    step = make_step(config, accumulate=accumulate, clip_norm=0.0)
    gradients: list[Tensor] = []
    step.learner.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(p.grad.clone() for p in step.parameters if p.grad is not None)
    )
    step(batch, 1e-2, 0, 0)
    return gradients, step.learner.sums.means()


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tiny_config: Config) -> None:
    # Without batch norm and dropout, which see parts and draw in another order.
    model = {"encoder": "test_convnext", "dropout": 0.0, "drop_path": 0.0}
    config = tiny_config.model_copy(update={"model": tiny_config.model.model_copy(update=model)})
    batch = make_batch()
    batch.label_BHW[0, 3:] = 255
    batch.depth_BHW[1, 5:] = 0
    (whole, of_whole), (parts, of_parts) = (gradients_of(config, batch, n) for n in (1, 2))
    assert len(whole) == len(parts) > 50
    largest = max(float(gradient.abs().max()) for gradient in whole)
    for expected, found in zip(whole, parts, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6 * largest)
    assert of_parts == pytest.approx(of_whole, rel=1e-6)


def test_parts_pass_the_network_one_by_one(tiny_config: Config) -> None:
    step, sizes = make_step(tiny_config, accumulate=2), []
    step.learner.network.register_forward_hook(
        lambda _part, inputs, _out: sizes.append(len(inputs[0]))
    )
    step(make_batch(), 1e-2, 0, 0)
    assert sizes == [1, 1]


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_the_gradient_norm_is_limited_where_asked(tiny_config: Config, clip: float) -> None:
    step = make_step(tiny_config, clip_norm=clip)
    norms: list[Tensor] = []

    def note(*_: Any) -> None:
        norms.append(
            nn.utils.get_total_norm([p.grad for p in step.parameters if p.grad is not None])
        )

    step.learner.optimizer.register_step_pre_hook(note)
    step(make_batch(), 1e-2, 0, 0)
    if clip:
        assert float(norms[0]) == pytest.approx(clip, rel=1e-3)
    else:
        assert float(norms[0]) > 0.1


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_reads_no_value_back_and_no_shape_depends_on_one(
    accumulate: int, tiny_config: Config
) -> None:
    step = make_step(tiny_config, accumulate=accumulate)
    sums, batch = step.learner.sums, make_batch()
    with _Calls() as calls:
        step(batch, 1e-2, 0, 0)
    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index.", "bincount")
    assert [name for name in calls.names if any(word in name for word in waiting)] == []
    assert any("convolution_backward" in name for name in calls.names), "the mode saw the backward"
    with _Calls() as calls:
        sums.means()
        bool(sums.first_bad_step < 0)
    assert "aten._local_scalar_dense.default" in calls.names, "reading a value is seen"


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_the_first_step_that_is_not_finite_is_noted(tiny_config: Config, kind: str) -> None:
    class Spoilt(TrainingLoss):
        def __call__(self, prediction: Prediction, batch: Batch, shares: Shares = WHOLE) -> Losses:
            losses = super().__call__(prediction, batch, shares)
            if kind == "loss":
                return losses._replace(total=losses.total * float("inf"))
            # Worth 0, but with a gradient of 0 x infinity.
            return losses._replace(total=losses.total + (losses.total * 0).abs().sqrt())

    step = make_step(tiny_config, clip_norm=0.0)
    for position in range(5):
        if position == 2:
            plain = step.loss
            step.loss = Spoilt(plain.config, plain.class_weight_C, plain.operations)
        step(make_batch(position), 1e-3, position, position)
    assert int(step.learner.sums.first_bad_step) == 2


def test_a_compiled_step_trains_the_same_weights_under_the_same_names(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, asked = torch.compile, []

    def traced(network: nn.Module, **options: Any) -> Any:
        # Tracing takes seconds; that the network can be traced is shown where it is defined.
        asked.append(options)
        wrapped: Any = compiled(network, **options)
        assert "_orig_mod.encoder" in next(iter(wrapped.state_dict()))
        return network.__call__

    monkeypatch.setattr(torch, "compile", traced)
    steps = [
        make_step(
            tiny_config, policy=DevicePolicy(CPU, None, compile=compiles, operations=OPERATIONS)
        )
        for compiles in (False, True)
    ]
    for step in steps:
        step(make_batch(), 1e-2, 0, 0)
    assert asked == [{"fullgraph": True}]
    assert equal(*(weights_of(step.learner.network) for step in steps))
    assert equal(*(weights_of(step.learner.ema.network) for step in steps))


def test_of_three_folds_only_the_first_is_compiled(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    policy = DevicePolicy(CPU, None, compile=True, operations=OPERATIONS)
    compiled = []
    for fold in range(3):
        step = make_step(tiny_config, policy=policy, fold=fold)
        for number in range(2):
            step(make_batch(number), 1e-3, number, number)
        evaluate = policy.evaluation(step.learner.ema.network)
        with torch.inference_mode():
            for shape in ((2, 3, 32, 64), (2, 3, 64, 64)):
                evaluate(torch.randn(shape))
        compiled.append(counter.frame_count)
    # The training step, and two shapes of view.
    assert compiled == [3, 3, 3]
    torch._dynamo.reset()


class _NotingClock(PhaseClock):
    """Keeps the phases in the order in which they were marked, repeats once."""

    marks: tuple[str, ...] = ()

    def mark(self, phase: str) -> None:
        super().mark(phase)
        if self.marks[-1:] != (phase,):
            self.marks += (phase,)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_clock_is_told_every_phase_of_a_step_and_changes_nothing(
    tiny_config: Config, accumulate: int
) -> None:
    plain, timed = (make_step(tiny_config, accumulate=accumulate) for _ in range(2))
    clock = _NotingClock(CPU)
    clock.attach(timed)
    start_s = time.perf_counter()
    clock.start()
    timed(make_batch(), 1e-2, 0, 0)
    elapsed_s = time.perf_counter() - start_s
    seconds = clock.seconds
    assert set(seconds) == {"other", "forward", "loss", "backward", "optimizer", "average"}
    part = ["forward", "loss", "backward"]
    assert list(clock.marks) == ["other", *part * accumulate, "optimizer", "other", "average"]
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) <= elapsed_s
    clock.start()
    assert clock.seconds == {}, "each step is told by itself"
    plain(make_batch(), 1e-2, 0, 0)
    assert equal(*(weights_of(step.learner.network) for step in (plain, timed)))
