"""The bootstrap of one system against plain loops, and how often its interval holds the truth."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from engine.selection.records import Interval
from engine.selection.statistics import FEWEST_GROUPS, Intervals, bootstrap, paired_bootstrap
from kernels.metrics import class_iou, mean_iou, pixel_accuracy

Counts = NDArray[np.int64]


def world(groups: int, seed: int, classes: int = 3) -> Counts:
    """(2 groups, C, C): two frames a group, which is easier or harder than others."""
    rng = np.random.default_rng(seed)
    truth_NC = (rng.gamma(3.0, 1.0, (2 * groups, classes)) * 1000).astype(np.int64)
    ease_N = np.repeat(rng.normal(0.5, 0.8, groups), 2) + rng.normal(0, 0.4, 2 * groups)
    hit_NC = np.round(truth_NC / (1 + np.exp(-ease_N))[:, None]).astype(np.int64)
    count_NCC = np.zeros((2 * groups, classes, classes), np.int64)
    for c in range(classes):
        count_NCC[:, c, c] = hit_NC[:, c]
        count_NCC[:, c, (c + 1) % classes] = truth_NC[:, c] - hit_NC[:, c]
    return count_NCC


def group_of(count_NCC: Counts) -> Counts:
    return np.arange(len(count_NCC)) // 2


def ends(found: Interval) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_the_interval_is_that_of_resampling_groups_one_by_one() -> None:
    count_NCC = world(6, 1)
    found = bootstrap(count_NCC, group_of(count_NCC), groups_of="scene", resamples=300, seed=5)
    drawn, tail = [], ndtr(-np.sqrt(6 / 5) * stdtrit(5, 0.975))
    for times_G in np.random.default_rng(5).multinomial(6, [1 / 6] * 6, 300):
        total_CC = (count_NCC * np.repeat(times_G, 2)[:, None, None]).sum(axis=0)
        drawn.append([mean_iou(total_CC), pixel_accuracy(total_CC), class_iou(total_CC)[2]])
    low_3, high_3 = np.quantile(drawn, [tail, 1 - tail], axis=0)
    total_CC, third = count_NCC.sum(axis=0), found.by_class[2]
    assert third is not None
    for number, interval in enumerate((found.miou, found.pixel_acc, third)):
        assert ends(interval) == pytest.approx((low_3[number], high_3[number]))
        assert (interval.groups, interval.groups_of) == (6, "scene")
    assert found.miou.value == pytest.approx(mean_iou(total_CC))
    assert found.pixel_acc.value == pytest.approx(pixel_accuracy(total_CC))
    assert third.value == pytest.approx(class_iou(total_CC)[2])


@pytest.mark.parametrize("groups", [8, 40])
def test_the_interval_holds_the_truth_in_about_95_of_100_worlds(groups: int) -> None:
    many_CC = world(20_000, 999).sum(axis=0)
    truth, covered = mean_iou(many_CC), 0
    for seed in range(400):
        count_NCC = world(groups, seed)
        low, high = ends(bootstrap(count_NCC, group_of(count_NCC), resamples=400).miou)
        covered += low <= truth <= high
    assert 0.91 <= covered / 400 <= 0.985


def test_draws_are_those_of_the_paired_bootstrap() -> None:
    # Against a system that is never right, the difference is the score itself.
    count_NCC = world(10, 2)
    wrong_NCC = np.zeros_like(count_NCC)
    for c in range(3):
        wrong_NCC[:, c, (c + 1) % 3] = count_NCC[:, c].sum(axis=1)
    group_N = group_of(count_NCC)
    difference = paired_bootstrap(count_NCC, wrong_NCC, group_N, seed=3).miou
    low, high = ends(bootstrap(count_NCC, group_N, seed=3).miou)
    assert (difference.low, difference.high) == pytest.approx((low, high))


def test_too_few_groups_give_a_score_and_no_interval() -> None:
    count_NCC = world(FEWEST_GROUPS - 1, 3)
    few = bootstrap(count_NCC, group_of(count_NCC), groups_of="block").miou
    assert (few.low, few.high, few.groups) == (None, None, 4)
    assert str(few) == f"{mean_iou(count_NCC.sum(axis=0)):.4f} (no interval: 4 blocks are too few)"
    count_NCC = world(FEWEST_GROUPS, 3)
    enough = bootstrap(count_NCC, group_of(count_NCC), groups_of="block").miou
    low, high = ends(enough)
    assert str(enough) == f"{enough.value:.4f} [{low:.4f}, {high:.4f}], 5 blocks"


def test_a_class_rests_on_the_groups_that_have_it() -> None:
    # Class 3 is in four groups, class 4 in none, class 5 is only predicted.
    count_NCC = np.pad(world(8, 4), ((0, 0), (0, 3), (0, 3)))
    count_NCC[:8, 3, 3] = 100
    count_NCC[:, 0, 5] = 50
    found = bootstrap(count_NCC, group_of(count_NCC), resamples=200)
    rare, absent, predicted = found.by_class[3:]
    assert rare is not None
    assert (rare.value, rare.low, rare.groups) == (1.0, None, 4)
    assert absent is None
    assert predicted is not None
    assert (predicted.value, predicted.low, predicted.groups) == (0.0, None, 0)


def test_frames_without_labels_make_no_difference_to_draws_that_hold_others() -> None:
    count_NCC = world(6, 5)
    with_empty: Intervals = bootstrap(
        np.pad(count_NCC, ((0, 2), (0, 0), (0, 0))),
        np.append(group_of(count_NCC), [0, 0]),
    )
    assert with_empty == bootstrap(count_NCC, group_of(count_NCC))
    nothing = bootstrap(np.zeros((5, 3, 3), np.int64), np.arange(5))
    assert (nothing.pixel_acc.value, nothing.pixel_acc.low) == (0.0, None)


@pytest.mark.parametrize(
    ("shape", "groups", "message"),
    [
        ((6, 3, 4), 6, r"an array of shape \(N, C, C\), got \[\(6, 3, 4\)\]"),
        ((5, 3, 3), 6, r"groups must be \(N,\) = \(5,\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    shape: tuple[int, ...], groups: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(np.zeros(shape, np.int64), np.arange(groups))
