"""A batch in parts: its gradient, its running statistics, and who is refused."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from engine.config import Config, TrainingConfig
from engine.data.accumulate import Shares
from engine.data.batch import Batch
from engine.distributed.exchange import cut_parts, open_exchange
from engine.distributed.moments import Moments
from engine.distributed.world import World
from engine.mistakes import ConfigError
from engine.model.network import build_network
from engine.model.on_cpu import use_kernels
from engine.runtime.device import choose_operations
from engine.training.step import TrainingLoss

CPU = torch.device("cpu")
MODEL = {
    "encoder": "test_convnext",  # no batch norm: what a part computes does not depend on others
    "weights": "none",
    "pyramid_channels": 8,
    "segmentation_channels": 64,
    "dropout": 0.3,
    "drop_path": 0.2,
}


def made_batch(images: int) -> Batch:
    """Labels in some images only, depth in others."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(images, 3, 32, 64, generator=generator)
    label = torch.randint(0, 13, (images, 32, 64), generator=generator).to(torch.uint8)
    depth = torch.rand(images, 32, 64, generator=generator) * 10
    label[0, :20], label[2:4], depth[3:] = 255, 255, 0
    image = image.contiguous(memory_format=torch.channels_last)
    return Batch(image, depth, label, np.arange(images))


def gradient(images: int, **training: Any) -> tuple[list[Tensor], Tensor]:
    """Of each parameter, and the losses, of one batch by one process."""
    section = {"batch_size": images, "parts": images, "boundary_weight": 1.7}
    config = Config.model_validate({"model": MODEL, "training": section | training})
    torch.manual_seed(0)
    network = build_network(config.model, 13).train()
    loss = TrainingLoss(config.training, torch.ones(13), choose_operations("fused", CPU))
    exchange = open_exchange(network, config.training, images, CPU)

    def backward(part: Batch, shares: Shares) -> Tensor:
        losses = loss(network(part.image_BCHW), part, shares)
        losses.total.backward()  # type: ignore[no-untyped-call]
        return torch.stack(losses).detach()

    exchange.begin(7)
    losses_3 = exchange.gradient(made_batch(images), backward)
    return [p.grad.clone() for p in network.parameters() if p.grad is not None], losses_3


@pytest.mark.parametrize("cut", [{"parts": 5}, {"parts": 2}, {"parts": 2, "accumulate": 2}])
def test_parts_add_up_to_the_batch_whatever_is_labelled_and_dropped(cut: dict[str, int]) -> None:
    """Uneven parts, one without a label, masks of the global batch: the gradient of one pass."""
    whole, whole_losses_3 = gradient(6, parts=1, reduce="tree")
    found, losses_3 = gradient(6, **cut)
    torch.testing.assert_close(losses_3, whole_losses_3, rtol=1e-5, atol=1e-6)
    assert len(found) == len(whole)
    for one, other in zip(found, whole, strict=True):
        assert (one - other).norm() <= 2e-5 * other.norm() + 1e-7


def test_gradients_are_laid_out_as_weights_are_and_the_next_step_has_its_own() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    network = network.to(memory_format=torch.channels_last)
    config = TrainingConfig(batch_size=4, parts=4)
    exchange = open_exchange(network, config, 4, CPU)

    def backward(part: Batch, shares: Shares) -> Tensor:
        network(part.image_BCHW).square().mean().backward()
        return torch.ones(3)

    norms = []
    for scale in (1.0, 2.0):
        batch = made_batch(4)
        batch = replace(batch, image_BCHW=batch.image_BCHW * scale)
        losses_3 = exchange.gradient(batch, backward)
        assert losses_3.tolist() == [4.0] * 3
        given = [(p, p.grad) for p in network.parameters() if p.grad is not None]
        assert len(given) == 4
        assert all(grad.stride() == p.stride() for p, grad in given)
        norms.append(sum(float(grad.square().sum()) for _, grad in given))
        network.zero_grad(set_to_none=True)
    assert norms[1] > 2 * norms[0]


@pytest.mark.parametrize("ours", [False, True])
def test_running_statistics_move_by_each_part_in_order(ours: bool) -> None:
    """As a network's do that sees the parts one after the other: torch's layer, timm's and ours."""
    torch.manual_seed(0)
    first = BatchNormAct2d(8, momentum=0.3, act_layer=nn.ReLU)
    network = nn.Sequential(first, nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16))
    if ours:
        use_kernels(network)
    plain = copy.deepcopy(network)
    moments, parts = Moments(network), torch.randn(4, 3, 8, 6, 6).unbind(0)
    parts = tuple(part.contiguous(memory_format=torch.channels_last) for part in parts)
    for start in (0, 2):
        moments.begin()
        for part in parts[start : start + 2]:
            plain(part)
            network(part)
            moments.note()
        moments.finish(lambda rows: rows)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


def test_statistics_of_other_processes_are_taken_in_order() -> None:
    """Two processes that see a part each end where one ends that sees both, bit by bit."""
    torch.manual_seed(0)
    alone, parts = nn.Sequential(nn.BatchNorm2d(4)), torch.randn(2, 3, 4, 5, 5).unbind(0)
    twins = [copy.deepcopy(alone) for _ in parts]
    whole = Moments(alone)
    whole.begin()
    for part in parts:
        alone(part)
        whole.note()
    whole.finish(lambda rows: rows)
    rows, shared = [], [Moments(twin) for twin in twins]
    for twin, moments, part in zip(twins, shared, parts, strict=True):
        moments.begin()
        twin(part)
        moments.note()
        rows.append(moments._passes[0])
    for twin, moments in zip(twins, shared, strict=True):
        moments.finish(lambda _: torch.stack(rows))
        for name, tensor in alone.state_dict().items():
            assert torch.equal(twin.state_dict()[name], tensor), name


def test_a_batch_norm_without_a_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match="batch norm 0 averages over all steps"):
        Moments(nn.Sequential(nn.BatchNorm2d(3, momentum=None)))


def test_more_processes_than_parts_are_refused_with_what_to_type() -> None:
    config = TrainingConfig(batch_size=8, parts=4)
    assert cut_parts(config, 8, 1, World(size=4)) == [2, 2, 2, 2]
    with pytest.raises(
        ConfigError, match="5 processes, and training.parts = 4: .* start 4 or fewer"
    ):
        cut_parts(config, 8, 1, World(size=5))
    with pytest.raises(ConfigError, match="cuts a batch of 5 into 3 parts"):
        cut_parts(config, 5, 1, World(size=4))


@pytest.mark.parametrize(
    ("training", "decoder", "told"),
    [
        ({"batch_size": 4, "parts": 5}, "fpn", "must be at least training.parts 5"),
        ({"batch_size": 6, "parts": 4, "accumulate": 2}, "fpn", "training.parts 4 x"),
        ({"batch_size": 6, "parts": 4}, "deeplabv3plus", "in training.parts 4 and .* leaves 1"),
    ],
)
def test_a_batch_that_cannot_be_cut_so_is_refused(
    training: dict[str, int], decoder: str, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Config.model_validate({"training": training, "model": {"decoder": decoder}})
