"""The counts of a frame, its objects, depths and boundaries against loops over its pixels."""

import numpy as np
import pytest
from numpy.typing import NDArray

import engine.report.frame_errors
from engine.report.frame_errors import (
    DEPTHS,
    SIZE_LIMITS_PX,
    SIZES,
    count_frame,
    depth_bins,
    object_sizes,
    on_boundary,
)

CLASSES = 4

Map = NDArray[np.uint8]

# One pixel, a row, a column, and sides of no common factor.
SHAPES = [(1, 1), (1, 9), (9, 1), (7, 11)]


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
    nothing = np.full((1, 1), 255, np.uint8)
    expected = count_frame(nothing, nothing, None, CLASSES)
    assert not any(count.any() for count in expected)
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
    for name, count in found._asdict().items():
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
    before = {name: count.copy() for name, count in total._asdict().items()}
    total.add(count_frame(halves(9), np.full((20, 20), 255, np.uint8), None, 2))
    assert all(np.array_equal(count, before[name]) for name, count in total._asdict().items())
    total.add(count_frame(halves(9), halves(10), None, 2))
    assert all(np.array_equal(count, 2 * before[name]) for name, count in total._asdict().items())


def random_map(shape: tuple[int, int], seed: int) -> Map:
    """Three classes, the first and last label among them, and unlabelled pixels."""
    return np.random.default_rng(seed).choice(np.array([0, 1, 254, 255], np.uint8), shape)


def flood(label: Map, y: int, x: int) -> set[tuple[int, int]]:
    """The object of a pixel."""
    found, edge = {(y, x)}, [(y, x)]
    while edge:
        y, x = edge.pop()
        for there in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= there[0] < label.shape[0] and 0 <= there[1] < label.shape[1]
            if inside and there not in found and label[there] == label[y, x]:
                found.add(there)
                edge.append(there)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pixel_knows_the_size_of_its_object(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.report.frame_errors, "SIZE_LIMITS_PX", (1, 2, 4, 8))
    for seed in range(20):
        label = random_map(shape, seed)
        size, objects = object_sizes(label)
        whole = {frozenset(flood(label, y, x)) for y, x in np.argwhere(label != 255).tolist()}
        expected = [0] * 5
        for pixels in whole:
            number = sum(len(pixels) > limit for limit in (1, 2, 4, 8))
            expected[number] += 1
            assert {int(size[pixel]) for pixel in pixels} == {number}
        assert objects.tolist() == expected


@pytest.mark.parametrize("number", range(4))
def test_a_limit_belongs_to_the_smaller_objects(number: int) -> None:
    limit = SIZE_LIMITS_PX[number]
    for pixels, expected in ((limit, number), (limit + 1, number + 1)):
        label = np.full((160, 160), 255, np.uint8)
        label.ravel()[:pixels] = 3  # whole rows, then a part of one: connected
        size, objects = object_sizes(label)
        assert set(size[label == 3].tolist()) == {expected}
        assert objects.tolist() == [int(n == expected) for n in range(len(SIZES))]


def test_pixels_that_touch_at_a_corner_or_across_unlabelled_ones_are_two_objects() -> None:
    assert object_sizes(np.array([[3, 255], [255, 3]], np.uint8))[1].tolist() == [2, 0, 0, 0, 0]
    assert object_sizes(np.array([[3, 255, 3]], np.uint8))[1].tolist() == [2, 0, 0, 0, 0]
    assert object_sizes(np.full((4, 4), 255, np.uint8))[1].tolist() == [0] * 5


def test_depths_are_binned_in_metres_and_missing_ones_are_apart() -> None:
    depth_mm = np.array([[0, 1, 999, 1000, 1499, 1500, 2999, 3000, 5999, 6000, 65535]], np.uint16)
    expected = [7, 0, 0, 1, 1, 2, 3, 4, 5, 6, 6]
    assert depth_bins(depth_mm).tolist() == [expected]
    names = [DEPTHS[number] for number in expected]
    assert names[0] == "missing"
    assert names[1] == "< 1 m"
    assert names[3] == "< 1.5 m"
    assert names[-1] == ">= 6 m"


@pytest.mark.parametrize("reach", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_boundary_is_what_has_another_class_within_reach(
    shape: tuple[int, int], reach: int
) -> None:
    for seed in range(10):
        classes = random_map(shape, seed)
        # Mostly one class, so that there is something off the boundary too.
        classes[np.random.default_rng(seed).random(shape) < 0.8] = 1
        before = classes.copy()
        expected = np.zeros(shape, bool)
        for y, x in np.argwhere(classes != 255).tolist():
            window = classes[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            expected[y, x] = bool(((window != 255) & (window != classes[y, x])).any())
        assert np.array_equal(on_boundary(classes, reach), expected)
        assert np.array_equal(classes, before)


def test_unlabelled_pixels_and_the_border_make_no_boundary() -> None:
    classes = np.full((9, 9), 4, np.uint8)
    classes[4:] = 255
    assert not on_boundary(classes).any()
