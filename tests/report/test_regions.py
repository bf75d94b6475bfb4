"""Objects, depths and boundaries against pixel-by-pixel searches."""

import numpy as np
import pytest
from numpy.typing import NDArray

import engine.report.regions
from engine.report.regions import (
    DEPTHS,
    SIZE_LIMITS_PX,
    SIZES,
    depth_bins,
    object_sizes,
    on_boundary,
)

Map = NDArray[np.uint8]

# One pixel, a row, a column, and sides of no common factor.
SHAPES = [(1, 1), (1, 9), (9, 1), (7, 11)]


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
    monkeypatch.setattr(engine.report.regions, "SIZE_LIMITS_PX", (1, 2, 4, 8))
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
