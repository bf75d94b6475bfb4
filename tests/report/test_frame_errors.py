"""The counts of a frame against loops over its pixels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.report.frame_errors import FrameErrors, count_frame
from engine.report.regions import DEPTHS, depth_bins, object_sizes, on_boundary

CLASSES = 4


def test_every_count_is_that_of_going_through_the_pixels() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.repeat(rng.integers(0, CLASSES, (5, 5), np.uint8), 8, 0), 8, 1)
    mask = np.where(rng.random((40, 40)) < 0.02, rng.integers(0, CLASSES, (40, 40)), label)
    mask = np.roll(mask, 2, axis=1).astype(np.uint8)
    label[rng.random((40, 40)) < 0.1] = 255
    label[:, 30:] = 2  # an object of more than 256 pixels
    depth = (rng.random((40, 40)) * 8000).astype(np.uint16)
    depth[:3] = 0
    found = count_frame(mask, label, depth, CLASSES)
    size, objects = object_sizes(label)
    by_depth = depth_bins(depth)
    truth, predicted = on_boundary(label), on_boundary(np.where(label == 255, 255, mask))
    expected = FrameErrors.none(CLASSES)
    for y, x in np.argwhere(label != 255).tolist():
        t, p = label[y, x], mask[y, x]
        expected.size_SCC[size[y, x], t, p] += 1
        expected.depth_DCC[by_depth[y, x], t, p] += 1
        expected.edge_ECC[int(not truth[y, x]), t, p] += 1
        expected.boundary_KC[0, t] += truth[y, x] and predicted[y, x] and t == p
        expected.boundary_KC[1, t] += truth[y, x]
        expected.boundary_KC[2, p] += predicted[y, x]
    assert np.array_equal(found.size_SCC, expected.size_SCC)
    assert np.array_equal(found.depth_DCC, expected.depth_DCC)
    assert np.array_equal(found.edge_ECC, expected.edge_ECC)
    assert np.array_equal(found.boundary_KC, expected.boundary_KC)
    assert np.array_equal(found.objects_S, objects)
    assert found.size_SCC[1].any()
    assert found.depth_DCC[-1].any()
    assert 0 < found.boundary_KC[0].sum() < found.boundary_KC[1].sum()


def halves(edge: int) -> NDArray[np.uint8]:
    """20 x 20, class 0 left of column `edge`, class 1 from there."""
    frame = np.zeros((20, 20), np.uint8)
    frame[:, edge:] = 1
    return frame


def test_an_edge_one_pixel_off_costs_a_third_of_the_boundary_and_little_area() -> None:
    found = count_frame(halves(11), halves(10), None, 2)
    # Columns 7 8 9 | 10 11 12 in truth, 8 9 10 | 11 12 13 predicted: 8 9 and 11 12 in common.
    assert found.boundary_KC.tolist() == [[40, 40], [60, 60], [60, 60]]
    assert found.size_SCC.sum(axis=0).tolist() == [[200, 0], [20, 180]]


def test_a_perfect_prediction_has_perfect_boundaries_whatever_is_unlabelled() -> None:
    label = halves(10)
    label[np.random.default_rng(0).random((20, 20)) < 0.3] = 255
    found = count_frame(halves(10), label, None, 2)
    assert np.array_equal(found.boundary_KC[0], found.boundary_KC[1])
    assert np.array_equal(found.boundary_KC[0], found.boundary_KC[2])
    assert found.boundary_KC.all()


def test_what_is_predicted_where_nobody_knows_the_truth_counts_nowhere() -> None:
    label = halves(10)
    label[:, 5:15] = 255
    here, there = halves(10), halves(10)
    there[:, 5:15] = 3
    found, other = (count_frame(mask, label, None, 4) for mask in (here, there))
    for name, count in vars(found).items():
        assert np.array_equal(count, getattr(other, name)), name


@pytest.mark.parametrize("value", [None, 0])
def test_without_depth_every_pixel_is_missing_it(value: int | None) -> None:
    depth = None if value is None else np.zeros((20, 20), np.uint16)
    found = count_frame(halves(9), halves(10), depth, 2)
    assert found.depth_DCC[:-1].sum() == 0
    assert found.depth_DCC[len(DEPTHS) - 1].sum() == 400


def test_the_longest_class_list_is_counted_without_overflow() -> None:
    label, mask = np.full((20, 20), 254, np.uint8), np.full((20, 20), 253, np.uint8)
    found = count_frame(mask, label, None, 255)
    assert found.depth_DCC[-1, 254, 253] == found.size_SCC[1, 254, 253] == 400
    assert found.depth_DCC.sum() == found.size_SCC.sum() == found.edge_ECC[1].sum() == 400


def test_a_frame_without_labels_adds_nothing() -> None:
    total = count_frame(halves(9), halves(10), None, 2)
    before = {name: count.copy() for name, count in vars(total).items()}
    total.add(count_frame(halves(9), np.full((20, 20), 255, np.uint8), None, 2))
    assert all(np.array_equal(count, before[name]) for name, count in vars(total).items())
    total.add(count_frame(halves(9), halves(10), None, 2))
    assert all(np.array_equal(count, 2 * before[name]) for name, count in vars(total).items())
