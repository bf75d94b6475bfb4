"""From one model alone to another, in half precision: the same bits by less work."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.blend_sweep import Crossings, cpu, frame_crossings

IGNORE = 255
CLASSES = 6
ENDS = np.repeat(np.eye(2)[:, :, None], CLASSES, axis=2)
"""(2, M, C) from the first of two models to the second."""

Halves = NDArray[np.float16]
Labels = NDArray[np.uint8]


@pytest.fixture
def never_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the general sweep was called")

    monkeypatch.setattr(cpu, "crossings", refuse)


def peaked(rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
    """Two or three classes of a cell matter; some of the others are below what is normal."""
    score = np.exp(rng.normal(0, 4, size))
    return np.asarray(score / score.sum(axis=0))


def coarse(rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
    """Quarters, so that there are ties of cells, of pixels and along the line, and zeros."""
    return rng.integers(0, 4, size) / 4


def large(rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
    """Whatever half precision has, from its smallest to its largest number."""
    return np.asarray(rng.integers(0, 0x7C00, size).astype(np.uint16).view(np.float16), float)


def make(
    values: Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]],
    hw: tuple[int, int],
    label_hw: tuple[int, int],
) -> tuple[list[Halves], Labels]:
    """Models that agree in part of the frame; labels, some of which, and a row, are none."""
    rng = np.random.default_rng(hw[1] * 100 + label_hw[1])
    common, agreed = values(rng, (CLASSES, *hw)), rng.random(hw) < 0.5
    probs = [np.where(agreed, common, values(rng, (CLASSES, *hw))) for _ in range(2)]
    label = rng.integers(0, CLASSES, label_hw).astype(np.uint8)
    label[rng.random(label_hw) < 0.2] = IGNORE
    label[min(1, label_hw[0] - 1)] = IGNORE if label_hw[0] > 1 else 0
    return [prob.astype(np.float16) for prob in probs], label


def assert_same_bits(found: Crossings, expected: Crossings) -> None:
    assert np.array_equal(found.count_CC, expected.count_CC)
    assert np.array_equal(found.share_E.view(np.int64), expected.share_E.view(np.int64))
    assert np.array_equal(found.kind_E3, expected.kind_E3)


@pytest.mark.parametrize("values", [peaked, coarse, large])
@pytest.mark.parametrize(
    ("hw", "label_hw"),
    [
        pytest.param((6, 9), (12, 18), id="twice as large"),
        pytest.param((5, 7), (17, 23), id="between"),
        pytest.param((7, 11), (7, 11), id="of the labels' size"),
        pytest.param((9, 13), (5, 6), id="smaller"),
        pytest.param((1, 7), (1, 20), id="a row"),
        pytest.param((8, 1), (16, 3), id="a column"),
        pytest.param((1, 1), (4, 4), id="one cell"),
        pytest.param((3, 5), (1, 1), id="one pixel"),
    ],
)
def test_it_has_the_bits_of_the_general_sweep(
    values: Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]],
    hw: tuple[int, int],
    label_hw: tuple[int, int],
    request: pytest.FixtureRequest,
) -> None:
    probs, label = make(values, hw, label_hw)
    rows = (0, 1, label_hw[0])
    singles = [prob.astype(np.float32) for prob in probs]
    expected = [frame_crossings(singles, ends, label, rows) for ends in (ENDS, ENDS[::-1])]
    request.getfixturevalue("never_mixed")
    for ends, general in zip((ENDS, ENDS[::-1]), expected, strict=True):
        assert_same_bits(frame_crossings(probs, ends, label, rows), general)
    assert expected[0].count_CC.sum() == (label < CLASSES).sum()
    assert len(expected[0].share_E) > 0 or label.size < 30


@pytest.mark.parametrize("step", [2, 3, 7])
def test_it_is_so_of_some_rows(step: int) -> None:
    probs, label = make(peaked, (6, 9), (13, 18))
    singles = [prob.astype(np.float32) for prob in probs]
    for first in range(step):
        some = (label[first::step], (first, step, 13))
        general = frame_crossings(singles, ENDS, *some)
        assert_same_bits(frame_crossings(probs, ENDS, *some), general)


@pytest.mark.parametrize("value", [-0.0, -0.25, np.inf])
def test_what_is_negative_or_infinite_is_left_to_the_general_sweep(value: float) -> None:
    probs, label = make(coarse, (6, 9), (12, 18))
    probs[1][2, 4, 5] = value
    singles = [prob.astype(np.float32) for prob in probs]
    rows = (0, 1, 12)
    with np.errstate(invalid="ignore"):
        general = frame_crossings(singles, ENDS, label, rows)
        assert_same_bits(frame_crossings(probs, ENDS, label, rows), general)


def test_other_lines_in_half_precision_are_those_of_single() -> None:
    probs, label = make(peaked, (6, 9), (12, 18))
    smaller, _ = make(peaked, (4, 5), (12, 18))
    rows = (0, 1, 12)
    for models, ends in (
        (probs, np.random.default_rng(1).random((2, 2, CLASSES))),
        ([probs[0], smaller[1]], ENDS),
        ([*probs, probs[0]], np.repeat(np.eye(3)[:2, :, None], CLASSES, axis=2)),
    ):
        singles = [prob.astype(np.float32) for prob in models]
        general = frame_crossings(singles, ends, label, rows)
        assert len(general.share_E) > 10
        assert_same_bits(frame_crossings(models, ends, label, rows), general)


def test_nothing_is_written_into_mapped_or_strided_stores() -> None:
    probs, label = make(peaked, (6, 9), (12, 18))
    expected = frame_crossings(probs, ENDS, label, (0, 1, 12))
    strided = [np.stack([prob, prob], axis=-1)[..., 0] for prob in probs]
    before = [prob.copy() for prob in probs]
    assert_same_bits(frame_crossings(strided, ENDS, label, (0, 1, 12)), expected)
    assert all(prob.flags.writeable for prob in (*probs, *strided))
    assert all(np.array_equal(a, b) for a, b in zip(before, probs, strict=True))
