"""Which pixels count as label edges, against hand-drawn maps and the definition pixel by pixel.

The fused implementations store no weights, but they show: with one cell a pixel and logits 0, the
gradient of the loss at a pixel's own class is its share of all weights, times 1/C - 1.
"""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels.boundary_ce.reference import pixel_weights

IGNORE = 255


def weights_by_hand(label: Tensor, boundary_weight: float, ignored_edges: bool) -> Tensor:
    """The definition, pixel by pixel: neighbours beyond the border do not exist."""
    B, H, W = label.shape
    weight = torch.zeros(B, H, W, dtype=torch.float64)
    for b in range(B):
        for i in range(H):
            for j in range(W):
                own = int(label[b, i, j])
                if own == IGNORE:
                    continue
                around = label[b, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].flatten().tolist()
                if ignored_edges:
                    around = [0 if value == IGNORE else value for value in around]
                else:
                    around = [value for value in around if value != IGNORE]
                weight[b, i, j] = boundary_weight if set(around) != {own} else 1.0
    return weight


CLASSES = 5
WeightsOf = Callable[..., Tensor]


@pytest.fixture
def weights_of(
    backend: str,
    operation: Callable[[str, str], ModuleType],
    device_of: Callable[[str], torch.device],
) -> WeightsOf:
    """`weights_of(label, boundary_weight, ignored_edges)`: float64, in units of the least one."""
    function, device = operation("boundary_ce", backend).boundary_ce, device_of(backend)

    def weights_of(label: Tensor, boundary_weight: float, ignored_edges: bool) -> Tensor:
        shape = (len(label), CLASSES, *label.shape[1:])
        logits = torch.zeros(shape, dtype=torch.float64, device=device, requires_grad=True)
        loss = function(
            logits,
            label.to(device),
            torch.ones(CLASSES, dtype=torch.float64, device=device),
            boundary_weight,
            align_corners=True,
            ignored_edges=ignored_edges,
        )
        (gradient,) = torch.autograd.grad(loss, logits)
        own = torch.where(label == IGNORE, 0, label).long()
        weight: Tensor = -gradient.cpu().gather(1, own[:, None])[:, 0] * (label != IGNORE)
        return weight / weight[weight > 0].min() if (weight > 0).any() else weight

    return weights_of


@pytest.mark.parametrize(
    ("ignored", "ignored_edges"),
    [
        (0.0, False),
        (0.1, True),
        (0.1, False),
        (0.6, True),
        (1.0, False),
        pytest.param(0.0, True, marks=pytest.mark.full),
        pytest.param(0.6, False, marks=pytest.mark.full),
        pytest.param(1.0, True, marks=pytest.mark.full),
    ],
)
def test_edges_are_the_definitions_over_random_labels(
    weights_of: WeightsOf, ignored: float, ignored_edges: bool
) -> None:
    # Patches of 3 x 3 pixels, so that there are insides as well as edges.
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, CLASSES, (2, 3, 8), generator=generator)
    label = label.repeat_interleave(3, 1).repeat_interleave(3, 2)
    label[torch.rand(label.shape, generator=generator) < ignored] = IGNORE
    by_hand = weights_by_hand(label, 2.0, ignored_edges)
    for typed in (label, label.to(torch.uint8)):
        found = weights_of(typed, 2.0, ignored_edges)
        torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=0)


@pytest.mark.parametrize("ignored_edges", [True, False])
def test_the_references_weights_are_the_definitions(ignored_edges: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    label = torch.randint(0, 3, (2, 6, 7), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.3] = IGNORE
    found = pixel_weights(label, 2.0, ignored_edges, torch.float64)
    assert torch.equal(found, weights_by_hand(label, 2.0, ignored_edges))


EdgeMap = Callable[..., list[list[int]]]


@pytest.fixture
def edge_map(weights_of: WeightsOf) -> EdgeMap:
    """The weights of one image's labels when edges weigh 9."""

    def edge_map(label: list[list[int]], *, ignored_edges: bool = False) -> list[list[int]]:
        weight = weights_of(torch.tensor([label]), 9.0, ignored_edges)
        rows: list[list[int]] = weight[0].round().long().tolist()
        return rows

    return edge_map


def test_a_step_between_two_classes_weighs_one_pixel_on_each_side(edge_map: EdgeMap) -> None:
    assert edge_map([[1, 1, 1, 2, 2, 2]] * 2) == [[1, 1, 9, 9, 1, 1]] * 2


def test_a_corner_counts_as_a_neighbour(edge_map: EdgeMap) -> None:
    label = [[3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 4]]
    assert edge_map(label) == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 9, 9], [1, 1, 9, 9]]


def test_the_border_of_the_image_is_no_edge(edge_map: EdgeMap) -> None:
    for label in (0, 4):
        assert edge_map([[label] * 3] * 3) == [[1] * 3] * 3
        assert edge_map([[label] * 3] * 3, ignored_edges=True) == [[1] * 3] * 3


def test_an_ignored_neighbour_makes_no_edge(edge_map: EdgeMap) -> None:
    assert edge_map([[2, 2, IGNORE, 2, 2]]) == [[1, 1, 0, 1, 1]]


def test_an_ignored_neighbour_hides_no_edge_beyond_it(edge_map: EdgeMap) -> None:
    assert edge_map([[2, IGNORE, 2], [2, 2, 3]]) == [[1, 0, 9], [1, 9, 9]]


def test_as_published_an_ignored_neighbour_counts_as_class_0(edge_map: EdgeMap) -> None:
    assert edge_map([[2, 2, IGNORE, 0, 0]], ignored_edges=True) == [[1, 9, 0, 1, 1]]
