"""Which biases count for nothing in training, because a batch norm takes them away again."""

import copy

import pytest
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from engine.distributed.dropout import Rows, share_masks
from engine.distributed.global_norm import use_global_norms
from engine.distributed.null_biases import null_biases
from engine.model.network import build_network
from engine.model.on_cpu import use_kernels
from tests.distributed.thirty import CLASSES, make_config

CHW = 3, 32, 32


class Branch(nn.Module):
    """What is added to its input, unless it is dropped."""

    def __init__(self, *parts: nn.Module, drops: float = 0.0) -> None:
        super().__init__()
        self.parts, self.drop = nn.Sequential(*parts), DropPath(drops)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.drop(self.parts(x))
        return y


class Sum(nn.Module):
    """Its input and a bias of about 1: positive where that is."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = 3 * x + self.norm(x)
        return y


SUM, WIDER = Sum(), nn.Conv2d(3, 4, 1)


def chain(*parts: nn.Module) -> nn.Module:
    """The parts, and what a loss would need: several results."""
    return nn.Sequential(*parts, nn.ReLU(), nn.Conv2d(4, 2, 1)).train()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)], ["0.bias"]),
        ([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)], ["0.bias", "1.bias"]),
        # At the edge a padded convolution does not see all of a shift.
        ([nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)], ["1.bias"]),
        ([nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)], []),
        ([nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)], []),
        # A ReLU that cuts nothing off here may do so later.
        ([nn.Sigmoid(), Branch(nn.Conv2d(3, 3, 1)), nn.ReLU6(), nn.BatchNorm2d(3), WIDER], []),
        ([nn.Sigmoid(), SUM, nn.ReLU(), nn.BatchNorm2d(3), WIDER], []),
        (
            [nn.Conv2d(3, 4, 1), Branch(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)],
            ["0.bias", "1.parts.0.bias"],
        ),
        # Dropped for some images it is no shift of all.
        ([nn.Conv2d(3, 4, 1), Branch(nn.Conv2d(4, 4, 1), drops=0.01), nn.BatchNorm2d(4)], []),
    ],
)
def test_a_bias_is_null_where_a_mean_takes_it_away(
    parts: list[nn.Module], expected: list[str]
) -> None:
    network = chain(*copy.deepcopy(parts))
    share_masks(network, Rows(torch.device("cpu")))
    # The norms may be those of several processes.
    use_global_norms(network, lambda total: None)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    assert null_biases(network, CHW) == expected
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_linear_bottlenecks_of_an_encoder_have_such_biases() -> None:
    found = {}
    for name in ("fpn", "deeplabv3plus"):
        network = build_network(make_config(name).model, CLASSES).train()
        use_kernels(network)
        found[name] = null_biases(network, (3, 64, 96))
    assert found["fpn"] == []
    blocks = [f"encoder.model.blocks.{tail}.bias" for tail in ("2.0.bn2", "3.0.bn3", "4.0.bn3")]
    assert sorted(found["deeplabv3plus"]) == blocks
