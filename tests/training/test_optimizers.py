"""Muon and Lion against plain loops; what they leave to AdamW; their checkpoints."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.config import Config, TrainingConfig
from engine.mistakes import ConfigError
from engine.model.network import Network, build_network
from engine.training.checkpoint import checkpoint_of, load_last, save_last
from engine.training.optimizers import Lion, Muon, muon_weights, orthogonalised
from engine.training.parts import freeze
from engine.training.records import Position
from engine.training.starts import restore
from engine.training.step import Ema, EpochSums, Learner, make_optimizer, set_learning_rate

KINDS = ("muon", "lion")


def make_network(config: Config, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_network(config.model, 13).train()


def give_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)  # laid out as it is


def test_singular_values_become_those_of_the_iteration_and_vectors_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((5, 9), (9, 5), (4, 4), (1, 3)):
        matrix = torch.randn(shape, generator=generator)
        u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        x = s / s.norm()
        for _ in range(5):  # of each singular value by itself
            x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
        expected = u @ torch.diag(x) @ v
        torch.testing.assert_close(orthogonalised(matrix).double(), expected, rtol=1e-4, atol=1e-5)
        assert 0.6 < float(x.min()) <= float(x.max()) < 1.3
    assert torch.equal(orthogonalised(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_a_step_of_muon_is_torchs_within_its_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = nn.Linear(12, 7, bias=False)
    theirs = copy.deepcopy(ours)
    mine = Muon([{"params": [ours.weight], "orthogonal": True}], lr=0.05, weight_decay=0.1)
    reference = torch.optim.Muon(
        [theirs.weight], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        ours.weight.grad = torch.randn(7, 12, generator=generator)
        theirs.weight.grad = ours.weight.grad.clone()
        mine.step()
        reference.step()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0.02, atol=2e-3)


def test_a_convolution_is_a_matrix_of_its_output_channels() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3, bias=False).to(memory_format=torch.channels_last)
    linear = nn.Linear(54, 4, bias=False)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
    gradient = torch.randn(4, 6, 3, 3)
    conv.weight.grad = gradient.contiguous(memory_format=torch.channels_last)
    linear.weight.grad = gradient.flatten(1)
    for weight in (conv.weight, linear.weight):
        Muon([{"params": [weight], "orthogonal": True}], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(conv.weight.flatten(1), linear.weight)


def test_what_muon_leaves_to_adamw_moves_as_by_adamw(tiny_config: Config) -> None:
    ours, theirs = make_network(tiny_config), make_network(tiny_config)
    chosen, named = muon_weights(ours), dict(theirs.named_parameters())
    config = TrainingConfig(optimizer="muon", weight_decay=0.1)
    plain = torch.optim.AdamW(theirs.parameters(), weight_decay=0.1, fused=True)
    optimizers = make_optimizer(ours, config), plain
    for step in range(3):
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            give_gradients(network, step)
            set_learning_rate(optimizer, 1e-2)
            optimizer.step()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, named[name]) == (name not in chosen), name
        assert parameter.grad is not None


def test_muon_takes_matrices_between_hidden_features(tiny_config: Config) -> None:
    network = make_network(tiny_config)
    chosen = muon_weights(network)
    sizes = {name: p.shape for name, p in network.named_parameters()}
    assert {"decoder.p5.weight", "decoder.p4.skip_conv.weight"} <= chosen
    assert any(name.startswith("encoder.") for name in chosen)
    assert all(len(sizes[name]) >= 2 and sizes[name][1] > 1 for name in chosen)
    left = {name for name, size in sizes.items() if len(size) >= 2} - chosen
    assert {"encoder.model.conv_stem.weight", "segmentation_head.0.weight"} <= left
    assert "depth_head.0.weight" in left
    assert all(sizes[name][1] == 1 for name in left if "conv_dw" in name)


def test_lion_is_its_definition() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3))
    expected, momentum = weight.detach().double(), torch.zeros(4, 3, dtype=torch.float64)
    optimizer = Lion([weight], 0.01, 0.1)
    for step in range(5):
        weight.grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        gradient = weight.grad.double()
        optimizer.step()
        update = torch.sign(0.9 * momentum + 0.1 * gradient)
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * update
        momentum = 0.99 * momentum + 0.01 * gradient
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_by_part_hold_and_frozen_parts_stay(kind: str, tiny_config: Config) -> None:
    training = {"optimizer": kind, "weight_decay": 0.0, "frozen": ["encoder.blocks.0"]}
    training |= {"lr_of": {"encoder": 0.5, "decoder": 2.0}, "layer_decay": 0.5}
    config = TrainingConfig.model_validate(training)
    plain = TrainingConfig.model_validate({"optimizer": kind, "weight_decay": 0.0})
    moved: list[dict[str, Tensor]] = []
    for section in (config, plain):
        network = make_network(tiny_config)
        freeze(network, section.frozen)
        before = {name: p.detach().double() for name, p in network.named_parameters()}
        optimizer = make_optimizer(network, section)
        give_gradients(network, 0)
        set_learning_rate(optimizer, 1e-2)
        optimizer.step()
        parameters = network.named_parameters()
        moved.append({name: p.detach().double() - before[name] for name, p in parameters})
    rates = {"decoder.p5.weight": 2.0, "segmentation_head.0.weight": 1.0, "decoder.p5.bias": 2.0}
    rates["encoder.model.blocks.4.0.conv_pw.weight"] = 0.25
    for name, rate in rates.items():
        torch.testing.assert_close(moved[0][name], rate * moved[1][name], rtol=1e-3, atol=1e-6)
    frozen = [name for name in moved[0] if name.startswith("encoder.model.blocks.0.")]
    assert frozen
    assert not any(moved[0][name].any() for name in frozen)
    assert all(moved[1][name].any() for name in frozen)


def make_learner(config: Config, kind: str, seed: int) -> Learner:
    training = {"optimizer": kind, "lr_of": {"encoder": 0.5}, "frozen": ("encoder.conv_stem",)}
    section = TrainingConfig.model_validate(training)
    network = make_network(config, seed)
    freeze(network, section.frozen)
    ema = Ema(network, 0.9, warmup=False)
    return Learner(network, ema, make_optimizer(network, section), EpochSums(torch.device("cpu")))


def steps(learner: Learner, numbers: range) -> None:
    for number in numbers:
        give_gradients(learner.network, number)
        set_learning_rate(learner.optimizer, 1e-2 / (1 + number))
        learner.optimizer.step()
        learner.ema.update(number)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_state_goes_on_to_the_same_bytes(
    kind: str, tiny_config: Config, tmp_path: Path
) -> None:
    ours, theirs = (make_learner(tiny_config, kind, seed) for seed in (0, 1))
    steps(ours, range(3))
    save_last(tmp_path / "last.pt", checkpoint_of("hash", Position(1, 1, 1.0), ours))
    saved = load_last(tmp_path / "last.pt", "hash")
    assert saved is not None
    restore(saved, theirs)
    state = {id(parameter) for parameter in theirs.optimizer.state}
    assert state == {id(p) for p in theirs.network.parameters() if p.requires_grad}
    for learner in (ours, theirs):
        steps(learner, range(3, 5))
    for one, other in ((ours.network, theirs.network), (ours.ema.network, theirs.ema.network)):
        expected = one.state_dict()
        assert all(torch.equal(expected[name], t) for name, t in other.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_parameter_has_a_gradient_nothing_moves(kind: str, tiny_config: Config) -> None:
    network = make_network(tiny_config)
    before = copy.deepcopy(network.state_dict())
    config = TrainingConfig.model_validate({"optimizer": kind, "weight_decay": 0.1})
    optimizer = make_optimizer(network, config)
    optimizer.step()
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not optimizer.state


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_a_step_run_once(kind: str, tiny_config: Config) -> None:
    # What profiling marks, and torch adds hooks to whole classes when one is made.
    network = make_network(tiny_config)
    torch.optim.AdamW(network.parameters())
    optimizer = make_optimizer(network, TrainingConfig.model_validate({"optimizer": kind}))
    ran: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: ran.append("before"))
    optimizer.register_step_post_hook(lambda *_: ran.append("after"))
    give_gradients(network, 0)
    optimizer.step()
    assert ran == ["before", "after"]


def test_what_has_no_form_for_it_is_refused_in_a_line(
    tiny_config: Config, load: Callable[..., Config]
) -> None:
    for runtime, told in (
        ({"shard_optimizer": True}, "training.optimizer = 'muon' is kept whole .* type "),
        ({"tune": "auto"}, "training.optimizer = 'muon' has one form, .* type runtime.tune=off"),
    ):
        with pytest.raises(ConfigError, match=told):
            load(training={"optimizer": "muon"}, runtime=runtime)
    with pytest.raises(ConfigError, match=r"training.optimizer"):
        load(training={"optimizer": "sgd"})


@pytest.fixture
def load() -> Callable[..., Config]:
    from engine.cli import load_config

    def make(**sections: dict[str, Any]) -> Config:
        return load_config([], sections)

    return make
