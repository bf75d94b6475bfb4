"""The layer that a form cannot have, or computes otherwise, is named."""

import pytest
import torch
from torch import Tensor, nn

from engine.export import torch_form
from engine.export.layers import find_culprit

FRAME = (torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16),)


class Asks(nn.Module):
    """Python looks at what a tensor holds, which no graph can."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Stage(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)])
        self.act = act

    def forward(self, x: Tensor) -> tuple[None, Tensor]:
        for conv in self.convs:
            x = self.act(conv(x))
        return None, x


class Whole(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.stage = Stage(act)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stage(x)[1]
        return out


def test_a_layer_that_cannot_be_exported_is_named() -> None:
    found = find_culprit(Whole(Asks()).eval(), FRAME, torch_form.ran)
    assert found is not None
    assert found.layer == "stage.act (Asks)"
    assert "data-dependent" in found.told


def test_a_layer_with_another_result_is_named_by_its_own_inputs() -> None:
    graph = Whole(nn.ReLU()).eval()

    def ran(module: nn.Module, tensors: tuple[Tensor, ...]) -> list[Tensor]:
        """A runtime whose second convolution forgets its bias."""
        conv = graph.stage.convs[1]
        bias, conv.bias = conv.bias, None  # type: ignore[assignment]
        try:
            return list(module(*tensors))
        finally:
            conv.bias = bias

    found = find_culprit(graph, FRAME, ran)
    assert found is not None
    assert found.layer == "stage.convs.1 (Conv2d)"
    assert "differs by" in found.told


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU()])
def test_of_a_sound_graph_none_is_named(act: nn.Module) -> None:
    assert find_culprit(Whole(act).eval(), FRAME, torch_form.ran) is None
