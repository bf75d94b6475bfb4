"""Frozen parts, rates by part, rates by the encoder's depth."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import Config, ModelConfig, TrainingConfig
from engine.mistakes import ConfigError
from engine.model.network import Network
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.loop import FoldTask, FoldTraining
from engine.training.one_pass import OnePassAdamW
from engine.training.parts import (
    check_parts,
    encoder_layers,
    freeze,
    freeze_norms,
    rate_groups,
    rates_of,
)
from engine.training.step import Ema, make_optimizer, set_learning_rate

CPU = torch.device("cpu")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))

MakeTask = Callable[..., FoldTask]


def content(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def network(encoder: str = "test_efficientnet") -> Network:
    torch.manual_seed(0)
    model = {"encoder": encoder, "weights": "none", "pyramid_channels": 8}
    return Network(ModelConfig.model_validate({**model, "segmentation_channels": 32}), 5)


@pytest.mark.parametrize("own_layers", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_frozen_encoder_keeps_every_bit_and_the_rest_is_trained(
    make_task: MakeTask, parts: int, own_layers: bool
) -> None:
    task = make_task(training={"epochs": 1, "frozen": ("encoder",), "parts": parts})
    fold = FoldTraining(task, replace(POLICY, own_layers=own_layers))
    learner = fold.learner
    for each in (learner.network, learner.ema.network):
        # A zero with a sign, which an average would lose.
        each.state_dict()["encoder.model.bn1.bias"][0] = -0.0
    before = {name: content(t) for name, t in learner.network.state_dict().items()}
    fold.run()
    for trained in (learner.network, learner.ema.network):
        after = {name: content(t) for name, t in trained.state_dict().items()}
        moved = {name for name, value in after.items() if value != before[name]}
        assert "decoder.p5.weight" in moved
        assert not any(name.startswith("encoder.") for name in moved)
    kept = {id(parameter) for parameter in learner.optimizer.state}
    assert kept == {id(p) for p in learner.network.parameters() if p.requires_grad}


@pytest.mark.parametrize(("parts", "own_layers"), [(1, True), (2, False)])
def test_frozen_norms_keep_their_statistics_and_the_rest_is_trained(
    make_task: MakeTask, parts: int, own_layers: bool
) -> None:
    model = {"weights": "file"}  # of which a blank fold reads nothing
    training = {"frozen_norms": ("encoder",), "parts": parts}
    fold = FoldTraining(
        make_task(training=training, model=model),
        replace(POLICY, own_layers=own_layers),
        blank=True,
    )
    learner = fold.learner
    for each in (learner.network, learner.ema.network):
        # Statistics that normalise, and a zero with a sign, which an average would lose.
        each.state_dict()["encoder.model.bn1.running_mean"].fill_(0.5)[0] = -0.0
    before = {name: content(t) for name, t in learner.network.state_dict().items()}
    for number, batch in enumerate(fold.open_source().batches(fold.draws(0, 0))):
        fold.step(batch, 1e-2, number, number)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for trained in (learner.network, learner.ema.network):
        after = {name: content(t) for name, t in trained.state_dict().items()}
        for name, value in after.items():
            assert (value == before[name]) == name.endswith(statistics), name


def test_a_frozen_norm_normalises_by_its_statistics() -> None:
    ours = network().train()
    freeze_norms(ours, ["encoder"])
    norm = ours.get_submodule("encoder.model.bn1")
    norm.get_buffer("running_mean").fill_(0.5)
    norm.get_buffer("running_var").fill_(4.0)
    x_BCHW = torch.randn(2, norm.get_buffer("running_mean").numel(), 4, 4)
    expected = F.silu((x_BCHW - 0.5) / 2)
    torch.testing.assert_close(norm(x_BCHW), expected, rtol=1e-4, atol=1e-4)
    assert ours.training
    assert ours.decoder.training


def test_frozen_norms_are_refused_where_there_are_none() -> None:
    ours = network()
    with pytest.raises(ConfigError, match=r"names 'decoder', and no batch norm is in it; leave it"):
        check_parts(ours, TrainingConfig(frozen_norms=("decoder",)))
    with pytest.raises(ConfigError, match="training.frozen_norms names 'encode', .*mean encoder"):
        check_parts(ours, TrainingConfig(frozen_norms=("encode",)))
    with pytest.raises(ValueError, match=r"type training.frozen_norms=\[\], or name weights"):
        Config.model_validate(
            {"training": {"frozen_norms": ["encoder"]}, "model": {"weights": "none"}}
        )


def test_what_is_frozen_makes_no_gradients_below(make_task: MakeTask) -> None:
    fold = FoldTraining(make_task(training={"frozen": ["encoder"]}), POLICY)
    image = torch.rand(2, 3, 32, 64)
    assert not any(feature.requires_grad for feature in fold.learner.network.encoder(image))
    below = FoldTraining(make_task(training={"frozen": ["encoder.blocks.4"]}), POLICY)
    features = below.learner.network.encoder(image)
    assert all(feature.requires_grad for feature in features[1:])


def test_a_stopped_fold_with_frozen_parts_and_rates_goes_on_to_the_same_bytes(
    make_task: MakeTask, open_run: Callable[..., Any], tmp_path: Any
) -> None:
    training = {"frozen": ("encoder.conv_stem", "encoder.bn1"), "layer_decay": 0.5}
    training |= {"lr_of": {"decoder": 0.5, "depth_head": 2.0}}
    whole = open_run(tmp_path / "whole", training=training).task(1)
    FoldTraining(whole, POLICY).run()
    task = make_task(training=training)
    FoldTraining(replace(task, stop_after=1), POLICY).run()
    FoldTraining(task, POLICY).run()
    ours, theirs = (each.run.best(1).read_bytes() for each in (whole, task))
    assert ours == theirs


def test_a_part_learns_at_its_rate_and_the_innermost_counts() -> None:
    ours = network()
    config = TrainingConfig(
        lr=1e-2, weight_decay=0.0, lr_of={"encoder": 0.5, "encoder.blocks.4": 0.1, "decoder": 2.0}
    )
    optimizer = make_optimizer(ours, config)
    in_order = [p for group in optimizer.param_groups for p in group["params"]]
    assert [*map(id, in_order)] == [*map(id, ours.parameters())]
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    for parameter in ours.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 1e-3)
    optimizer.step()
    # AdamW's first step moves every weight by its rate, whatever the gradient's size.
    moved = {n: float((before[n] - p.detach()).abs().max()) for n, p in ours.named_parameters()}
    rates = {
        "encoder.model.conv_stem.weight": 0.5,
        "encoder.model.blocks.4.0.conv_pw.weight": 0.1,
        "decoder.p5.weight": 2.0,
        "segmentation_head.0.weight": 1.0,
    }
    for name, rate in rates.items():
        assert moved[name] == pytest.approx(1e-3 * rate, rel=1e-3), name


@pytest.mark.parametrize(
    ("encoder", "count", "first", "last"),
    [
        ("test_efficientnet", 6, "model.conv_stem.weight", "model.blocks.4.0.conv_pw.weight"),
        # A stem with its norm, blocks of 2, 2, 6 and 2, and what halves the sides between them.
        ("convnext_atto", 1 + 2 + 2 + 6 + 2 + 3, "model.stem_0.weight", "model.stages_3.blocks.1"),
        ("resnet18", 9, "model.conv1.weight", "model.layer4.1"),
    ],
)
def test_layers_of_an_encoder_are_its_blocks(
    encoder: str, count: int, first: str, last: str
) -> None:
    with torch.device("meta"):
        ours = network(encoder)
    layers = encoder_layers(ours.encoder)
    assert len(layers) == count
    assert first in layers[0]
    assert any(name.startswith(last) for name in layers[-1])
    placed = [name for names in layers for name in names]
    assert sorted(placed) == sorted(name for name, _ in ours.encoder.named_parameters())
    rates = rates_of(ours, TrainingConfig(layer_decay=0.5, lr_of={"encoder": 0.1}))
    assert rates[f"encoder.{layers[-1][0]}"] == pytest.approx(0.5 * 0.1)
    assert rates[f"encoder.{layers[0][0]}"] == pytest.approx(0.5**count * 0.1)
    assert rates["decoder.p5.weight"] == 1


def test_at_the_defaults_there_is_one_group_as_torch_makes_it() -> None:
    ours = network()
    (group,) = make_optimizer(ours, TrainingConfig()).param_groups
    assert "rate" not in group
    assert rates_of(ours, TrainingConfig()) == dict.fromkeys(dict(ours.named_parameters()), 1.0)


def test_a_name_of_no_part_is_told_with_those_that_there_are() -> None:
    ours = network()
    told = r"training.frozen names 'encoder.block.4', and this network has no such part; did you "
    told += r"mean encoder.blocks.4\? There are encoder, decoder, .*depth_head.*encoder.conv_stem"
    with pytest.raises(ConfigError, match=told):
        check_parts(ours, TrainingConfig(frozen=("encoder.block.4",)))
    with pytest.raises(ConfigError, match="training.lr_of names 'head'"):
        check_parts(ours, TrainingConfig(lr_of={"head": 2}))
    with pytest.raises(ConfigError, match=r"gives encoder.blocks.1 a rate, and .*freezes it"):
        check_parts(ours, TrainingConfig(frozen=("encoder",), lr_of={"encoder.blocks.1": 2}))
    every = ("encoder", "decoder", "segmentation_head", "depth_head")
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        check_parts(ours, TrainingConfig(frozen=every))
    # As timm, and as an extractor, writes it.
    with torch.device("meta"):
        atto = network("convnext_atto")
    check_parts(atto, TrainingConfig(frozen=("encoder.stages.0", "encoder.model.stages_1")))


def test_one_pass_over_frozen_parts_and_rates_is_torchs_step(tiny_config: Config) -> None:
    config = tiny_config.training.model_copy(
        update={"lr_of": {"encoder": 0.5}, "layer_decay": 0.9, "frozen": ("encoder.blocks.0",)}
    )
    made = []
    for one_pass in (True, False):
        ours = network().train()
        freeze(ours, config.frozen)
        ema = Ema(ours, 0.9, warmup=False)
        if one_pass:
            lr = torch.tensor(config.lr)
            groups = rate_groups(ours, config)
            for group in groups:
                group["lr"] = lr.clone()  # as `make_optimizer` on a GPU
            optimizer: torch.optim.Optimizer = OnePassAdamW(
                groups, ema.averages, lr, config.weight_decay, clip_norm=0.0
            )
        else:
            optimizer = make_optimizer(ours, config)
        generator = torch.Generator().manual_seed(1)
        for parameter in ours.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        set_learning_rate(optimizer, 1e-3)
        if isinstance(optimizer, OnePassAdamW):
            optimizer.average_weight.fill_(ema.weight(0))
            optimizer.step()
            ema.update_buffers(0)
        else:
            optimizer.step()
            ema.update(0)
        made.append((ours.state_dict(), ema.network.state_dict()))
    for ours_state, theirs in zip(*made, strict=True):
        for name, tensor in ours_state.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=2e-5, atol=2e-6, msg=name)
