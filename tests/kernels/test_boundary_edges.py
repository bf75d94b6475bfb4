"""Which pixels count as label edges, against hand-drawn maps and the definition pixel by pixel."""

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


@pytest.mark.parametrize("ignored_edges", [True, False])
@pytest.mark.parametrize("ignored", [0.0, 0.1, 0.6, 1.0])
def test_edges_are_the_definitions_over_random_labels(ignored: float, ignored_edges: bool) -> None:
    # Patches of 3 x 3 pixels, so that there are insides as well as edges.
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 4, (2, 5, 6), generator=generator)
    label = label.repeat_interleave(3, 1).repeat_interleave(3, 2)
    label[torch.rand(label.shape, generator=generator) < ignored] = IGNORE
    for typed in (label, label.to(torch.uint8)):
        found = pixel_weights(typed, 2.0, ignored_edges, torch.float64)
        assert torch.equal(found, weights_by_hand(label, 2.0, ignored_edges))


def edge_map(label: list[list[int]], *, ignored_edges: bool = False) -> list[list[int]]:
    weight = pixel_weights(torch.tensor([label]), 9.0, ignored_edges, torch.float64)
    rows: list[list[int]] = weight[0].long().tolist()
    return rows


def test_a_step_between_two_classes_weighs_one_pixel_on_each_side() -> None:
    assert edge_map([[1, 1, 1, 2, 2, 2]] * 2) == [[1, 1, 9, 9, 1, 1]] * 2


def test_a_corner_counts_as_a_neighbour() -> None:
    label = [[3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 4]]
    assert edge_map(label) == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 9, 9], [1, 1, 9, 9]]


def test_the_border_of_the_image_is_no_edge() -> None:
    for label in (0, 4):
        assert edge_map([[label] * 3] * 3) == [[1] * 3] * 3
        assert edge_map([[label] * 3] * 3, ignored_edges=True) == [[1] * 3] * 3


def test_an_ignored_neighbour_makes_no_edge() -> None:
    assert edge_map([[2, 2, IGNORE, 2, 2]]) == [[1, 1, 0, 1, 1]]


def test_an_ignored_neighbour_hides_no_edge_beyond_it() -> None:
    assert edge_map([[2, IGNORE, 2], [2, 2, 3]]) == [[1, 0, 9], [1, 9, 9]]


def test_as_published_an_ignored_neighbour_counts_as_class_0() -> None:
    assert edge_map([[2, 2, IGNORE, 0, 0]], ignored_edges=True) == [[1, 9, 0, 1, 1]]
