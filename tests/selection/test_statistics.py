"""The paired bootstrap against plain loops, on known cases, and how often its interval is right."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

import engine.selection.statistics
from engine.frames.decode import Sample
from engine.selection.groups import group_of
from engine.selection.statistics import (
    FEWEST_GROUPS,
    RESAMPLES,
    Difference,
    paired_bootstrap,
)
from kernels.metrics import class_iou, mean_iou

Counts = NDArray[np.int64]


def miou_difference(
    a_NCC: Counts, b_NCC: Counts, group_N: Counts, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    return paired_bootstrap(a_NCC, b_NCC, group_N, resamples=resamples, seed=seed).miou


def system(truth_NC: Counts, accuracy_N: NDArray[np.float64]) -> Counts:
    """(N, C, C): that share of each class is right, the rest is taken for the next class."""
    classes = truth_NC.shape[1]
    count_NCC = np.zeros((len(truth_NC), classes, classes), np.int64)
    for c in range(classes):
        hit_N = np.round(truth_NC[:, c] * accuracy_N).astype(np.int64)
        count_NCC[:, c, c] = hit_N
        count_NCC[:, c, (c + 1) % classes] = truth_NC[:, c] - hit_N
    return count_NCC


def two_systems(frames: int, seed: int, better: float = 0.0) -> tuple[Counts, Counts]:
    """Frames vary in size and difficulty, which both systems share, and in who does better."""
    rng = np.random.default_rng(seed)
    truth_NC = (rng.gamma(3.0, 1.0, (frames, 3)) * 1000).astype(np.int64)
    common_N = rng.normal(0.5, 0.8, frames)
    a, b = (1 / (1 + np.exp(-(common_N + rng.normal(shift, 0.4, frames)))) for shift in (better, 0))
    return system(truth_NC, a), system(truth_NC, b)


def test_a_system_does_not_differ_from_itself() -> None:
    count_NCC, _ = two_systems(30, 0)
    same = Difference(difference=0.0, low=0.0, high=0.0, p=1.0, groups=10)
    found = paired_bootstrap(count_NCC, count_NCC, np.arange(30) % 10)
    assert found == (same, [same] * 3)


def test_the_interval_is_that_of_resampling_groups_one_by_one() -> None:
    a_NCC, b_NCC = two_systems(18, 1, better=0.3)
    group_N = np.random.default_rng(2).permutation(np.repeat(np.arange(6), 3))
    found = miou_difference(a_NCC, b_NCC, group_N, resamples=300, seed=5)
    rng = np.random.default_rng(5)
    drawn = []
    for times_G in rng.multinomial(6, [1 / 6] * 6, 300):
        chosen = [n for n in range(18) for _ in range(times_G[group_N[n]])]
        drawn.append(mean_iou(a_NCC[chosen].sum(0)) - mean_iou(b_NCC[chosen].sum(0)))
    tail = ndtr(-np.sqrt(6 / 5) * stdtrit(5, 0.975))
    assert found.difference == mean_iou(a_NCC.sum(0)) - mean_iou(b_NCC.sum(0))
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [tail, 1 - tail]).tolist())
    assert found.groups == 6


@pytest.mark.parametrize("frames", [8, 40])
def test_the_interval_covers_the_truth_in_about_95_of_100_worlds(frames: int) -> None:
    # Equally good systems: the true difference is 0. The plain percentile interval of 8 groups
    # covers it in 88 worlds, which this would notice.
    covered = 0
    for seed in range(400):
        a_NCC, b_NCC = two_systems(frames, seed)
        found = miou_difference(a_NCC, b_NCC, np.arange(frames), resamples=400)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
    assert 0.91 <= covered / 400 <= 0.985


def test_the_p_value_is_below_5_percent_where_the_interval_leaves_out_zero() -> None:
    sides = set()
    for seed in range(60):
        a_NCC, b_NCC = two_systems(12, seed, better=0.25)
        found = miou_difference(a_NCC, b_NCC, np.arange(12), resamples=999)
        assert found.low is not None
        assert found.high is not None
        assert found.p is not None
        outside = not found.low <= 0 <= found.high
        sides.add(outside)
        # Between two neighbours of 999 resamples either may be told.
        assert outside == (found.p < 0.05) or found.p == pytest.approx(0.05, abs=0.01)
    assert sides == {True, False}


def test_a_system_that_is_better_in_every_group_is_told_from_the_other() -> None:
    truth_NC = np.full((20, 3), 1000)
    rng = np.random.default_rng(0)
    b = rng.uniform(0.4, 0.6, 20)
    found = miou_difference(system(truth_NC, b + 0.1), system(truth_NC, b), np.arange(20))
    assert found.low is not None
    assert found.p is not None
    assert found.difference > 0.05
    assert found.low > 0.05
    assert found.p < 0.01


def test_exchanging_the_systems_turns_the_sign() -> None:
    a_NCC, b_NCC = two_systems(20, 3, better=0.2)
    forth = miou_difference(a_NCC, b_NCC, np.arange(20))
    back = miou_difference(b_NCC, a_NCC, np.arange(20))
    assert forth.low is not None
    assert forth.high is not None
    assert (back.difference, back.low, back.high) == pytest.approx(
        (-forth.difference, -forth.high, -forth.low)
    )
    assert back.p == pytest.approx(forth.p)


def test_frames_of_one_group_are_drawn_together() -> None:
    a_NCC, b_NCC = two_systems(10, 4)
    once = miou_difference(a_NCC, b_NCC, np.arange(10))
    # Every frame seen four times tells no more than once.
    assert once == miou_difference(
        np.repeat(a_NCC, 4, axis=0), np.repeat(b_NCC, 4, axis=0), np.repeat(np.arange(10), 4)
    )


def test_the_draws_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    a_NCC, b_NCC = two_systems(12, 5)
    first = miou_difference(a_NCC, b_NCC, np.arange(12), seed=1)
    assert first == miou_difference(a_NCC, b_NCC, np.arange(12), seed=1)
    assert first != miou_difference(a_NCC, b_NCC, np.arange(12), seed=2)
    # Not on the names of the groups, nor on how many resamples are held in memory at once.
    monkeypatch.setattr(engine.selection.statistics, "_CHUNK", 12 * 7)
    assert first == miou_difference(a_NCC, b_NCC, 100 + 3 * np.arange(12), seed=1)


def test_too_few_groups_give_a_difference_and_no_interval() -> None:
    a_NCC, b_NCC = two_systems(12, 6)
    few = miou_difference(a_NCC, b_NCC, np.arange(12) % (FEWEST_GROUPS - 1))
    assert few.difference == mean_iou(a_NCC.sum(0)) - mean_iou(b_NCC.sum(0))
    assert (few.low, few.high, few.p, few.groups) == (None, None, None, 4)
    assert str(few).endswith("(no interval: 4 groups, at least 5 are needed)")
    enough = miou_difference(a_NCC, b_NCC, np.arange(12) % FEWEST_GROUPS)
    assert enough.p is not None
    assert str(enough).endswith(f"p = {enough.p:.3f}, 5 groups")
    named = enough.model_copy(update={"groups_of": "scene"})
    assert str(named).endswith(f"p = {enough.p:.3f}, 5 scenes")


def test_the_difference_of_a_class_rests_on_the_groups_that_have_it() -> None:
    a_NCC, b_NCC = (count.copy() for count in two_systems(12, 7))
    # Class 3 is in four frames, class 4 in none, class 5 only b predicts.
    a_NCC, b_NCC = (np.pad(count, ((0, 0), (0, 3), (0, 3))) for count in (a_NCC, b_NCC))
    a_NCC[:4, 3, 3], b_NCC[:4, 3, 0] = 100, 100
    a_NCC[:, 0, 1] += 50
    b_NCC[:, 0, 5] += 50
    found = paired_bootstrap(a_NCC, b_NCC, np.arange(12), resamples=200).by_class
    iou_a, iou_b = class_iou(a_NCC.sum(0)), class_iou(b_NCC.sum(0))
    for c in range(4):
        difference = found[c]
        assert difference is not None
        assert difference.difference == iou_a[c] - iou_b[c]
        assert difference.groups == (12 if c < 3 else 4)
        assert (difference.p is None) == (c == 3)
    assert found[4:] == [None, None]


@pytest.mark.parametrize(
    ("shape", "groups", "resamples", "message"),
    [
        ((6, 3, 3), 6, 2000, r"one shape \(N, C, C\)"),
        ((5, 3, 3), 6, 2000, r"groups must be \(N,\) = \(5,\)"),
        ((5, 3, 3), 5, 99, "at least 100, got 99"),
        ((5, 3, 3), 5, 2000, "other labels: 2 of 5 frames differ .* first frame 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    shape: tuple[int, ...], groups: int, resamples: int, message: str
) -> None:
    b_NCC = np.zeros((5, 3, 3), np.int64)
    b_NCC[[1, 3], 0, 0] = 1
    with pytest.raises(ValueError, match=message):
        miou_difference(np.zeros(shape, np.int64), b_NCC, np.arange(groups), resamples=resamples)


def frames(numbers: list[int], scenes: list[str | None] | None = None) -> list[Sample]:
    return [
        Sample(f"{number:04d}", Path("x.png"), None, None, (4, 4), scene)
        for number, scene in zip(numbers, scenes or [None] * len(numbers), strict=True)
    ]


def test_scenes_are_the_groups_where_every_frame_has_one() -> None:
    groups = group_of(frames(list(range(5)), ["b", "a", "b", "c", "a"]))
    assert (groups.kind, groups.of, groups.count) == ("scene", [1, 0, 1, 2, 0], 3)


def test_without_scenes_the_groups_are_blocks_cut_at_gaps() -> None:
    # 72 frames, gaps after 26 and after 46: three blocks of about twenty, cut there.
    numbers = [*range(26), *range(40, 60), *range(70, 96)]
    for scenes in (None, [None, *["a"] * 71]):
        groups = group_of(frames(numbers, scenes))
        assert groups.kind == "block"
        assert groups.of == [0] * 26 + [1] * 20 + [2] * 26


@pytest.mark.parametrize("count", [1, 19, 200, 795])
def test_blocks_are_contiguous_and_of_about_twenty_frames(count: int) -> None:
    of = group_of(frames(list(range(count)))).of
    assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(of))
    sizes = np.bincount(of)
    assert len(sizes) == max(1, count // 20)
    assert sizes.min() >= min(count, 20)
    assert sizes.max() <= 21
