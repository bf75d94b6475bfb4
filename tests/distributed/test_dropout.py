"""Masks of dropout belong to a row of a step's batch, whoever computes it."""

import copy

import pytest
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from engine.distributed.dropout import Rows, mask, share_masks

CPU = torch.device("cpu")


def dropping() -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.25), DropPath(0.2), nn.Dropout(0.0))


def passed(network: nn.Module, rows: Rows, x_BCHW: Tensor, first: int = 0) -> Tensor:
    rows.begin(123)
    rows.at(first)
    result: Tensor = network(x_BCHW)
    return result


def test_a_row_is_dropped_alike_alone_and_among_others() -> None:
    network, rows, x_BCHW = dropping(), Rows(CPU), torch.rand(6, 8, 5, 5) + 1
    assert share_masks(network, rows) == 3
    whole = passed(network, rows, x_BCHW)
    cut = [passed(network, rows, x_BCHW[n : n + 2], n) for n in (0, 2, 4)]
    assert torch.equal(torch.cat(cut), whole)
    assert not torch.equal(cut[1], passed(network, rows, x_BCHW[2:4], 0))


def test_as_much_is_dropped_as_is_asked_for_and_the_rest_is_scaled() -> None:
    for layer, axes in ((nn.Dropout(0.3), 4), (nn.Dropout2d(0.3), 2), (DropPath(0.3), 1)):
        network, rows = nn.Sequential(layer), Rows(CPU)
        share_masks(network, rows)
        y = passed(network, rows, torch.ones(400, 20, 3, 3))
        assert torch.allclose(y[y > 0], torch.tensor(1 / 0.7))
        drawn = y.flatten(axes - 1)[..., 0] if axes > 1 else y[:, 0, 0, 0]
        # Four standard deviations of so many draws.
        assert abs((drawn == 0).float().mean() - 0.3) < 4 * (0.21 / drawn.numel()) ** 0.5
        one = y[:, :, :1, :1] if axes == 2 else y[:, :1, :1, :1]
        assert axes == 4 or torch.equal(y, one.expand_as(y))


def test_masks_of_steps_layers_and_rows_are_independent() -> None:
    rows = Rows(CPU)
    drawn = []
    for seed in (1, 2):
        rows.begin(seed)
        drawn += [mask(rows, layer, (2, 5000), 0.5) for layer in (0, 1)]
    columns = torch.cat(drawn).T
    agree = (columns[:, :, None] == columns[:, None, :]).float().mean(dim=0)
    assert ((agree - 0.5).abs() < 4 * 0.5 / 5000**0.5).sum() == 8 * 7


def test_evaluation_and_the_names_of_weights_are_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.BatchNorm2d(4))
    plain, x_BCHW = copy.deepcopy(network), torch.rand(2, 3, 4, 4)
    share_masks(network, Rows(CPU))
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(copy.deepcopy(network).eval()(x_BCHW), plain.eval()(x_BCHW))


def test_a_layer_that_cannot_drop_by_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="a Dropout3d cannot drop by rows"):
        share_masks(nn.Sequential(nn.Dropout3d(0.1)), Rows(CPU))
