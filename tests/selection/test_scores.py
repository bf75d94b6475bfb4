"""The temperature with the best mIoU, over counts whose score is known; the groups of frames."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.frames.decode import Sample
from engine.selection.records import TemperatureChoice
from engine.selection.scores import choose_temperature, group_of


def count_of(right: int, wrong: int = 0) -> NDArray[np.int64]:
    """Two classes; `right` pixels of each are right, `wrong` of class 0 are called 1."""
    return np.array([[right, wrong], [0, right]], np.int64)


# mIoU 0.5 x (6/10 + 6/10), then 1, then 1 again.
COUNT_TCC = np.stack([count_of(6, 4), count_of(9), count_of(8)])
ONE_FOLD = COUNT_TCC[None]


def test_the_best_on_miou_is_chosen_and_the_first_of_equals() -> None:
    choice = choose_temperature((0.7, 0.8, 0.9), ONE_FOLD, None)
    assert (choice.best, choice.index, choice.chosen_by) == (0.8, 1, "oof miou")
    assert [score.temperature for score in choice.scores] == [0.7, 0.8, 0.9]
    assert [score.miou for score in choice.scores] == [pytest.approx(0.6), 1.0, 1.0]
    assert choice.scores[0].pixel_acc == 12 / 16


def test_miou_decides_and_not_accuracy() -> None:
    common = np.array([[98, 0], [2, 0]], np.int64)  # accuracy 0.98, mIoU 0.49
    fair = np.array([[88, 10], [0, 2]], np.int64)  # accuracy 0.90, mIoU 0.53
    assert choose_temperature((0.7, 1.0), np.stack([common, fair])[None], None).best == 1.0


def test_a_fixed_temperature_is_kept_whatever_its_score() -> None:
    choice = choose_temperature((0.7, 0.8, 0.9), ONE_FOLD, 0.7)
    assert (choice.best, choice.index, choice.chosen_by) == (0.7, 0, "config")
    assert len(choice.scores) == 3


def test_counts_are_summed_over_folds() -> None:
    folds = np.stack([COUNT_TCC, 2 * COUNT_TCC[::-1]])
    whole = (COUNT_TCC + 2 * COUNT_TCC[::-1])[None]
    temperatures = (0.7, 0.8, 0.9)
    assert choose_temperature(temperatures, folds, None) == choose_temperature(
        temperatures, whole, None
    )


def test_the_best_of_the_sum_may_be_the_best_of_no_fold() -> None:
    one = np.stack([count_of(9, 0), count_of(8, 1), count_of(1, 9)])
    two = np.stack([count_of(1, 9), count_of(8, 1), count_of(9, 0)])
    assert choose_temperature((0.7, 0.8, 0.9), np.stack([one, two]), None).best == 0.8


def test_the_choice_is_read_as_it_was_written(tmp_path: Path) -> None:
    choice = choose_temperature((0.7, 0.8, 0.9), ONE_FOLD, None)
    choice.write(tmp_path / "temperature.json")
    assert TemperatureChoice.read(tmp_path / "temperature.json") == choice
    text = (tmp_path / "temperature.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == ["best", "index", "chosen_by", "scores"]


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
