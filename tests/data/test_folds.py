"""Folds cover every frame once, keep neighbours together, and report what leaks."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.folds import FoldsFile, make_folds, neighbours
from engine.frames.decode import Sample


def frames(stems: list[str], scenes: list[str] | None = None) -> list[Sample]:
    names: list[str | None] = list(scenes) if scenes else [None] * len(stems)
    return [
        Sample(stem, Path(f"{stem}.png"), None, None, (4, 4), scene)
        for stem, scene in zip(stems, names, strict=True)
    ]


def numbered(*numbers: int) -> list[Sample]:
    return frames([f"{number:06d}" for number in sorted(numbers)])


def test_random_folds_equal_those_of_scikit_learn() -> None:
    # KFold(5, shuffle=True, random_state=42).split(range(10)) of scikit-learn 1.7.
    folds = make_folds(numbered(*range(10)), "random", 5, 42, 1)
    expected = [[1, 8], [0, 5], [2, 7], [4, 9], [3, 6]]
    assert [folds.validation(fold).tolist() for fold in range(5)] == expected


def test_random_folds_of_uneven_size_differ_by_one_at_most() -> None:
    folds = make_folds(numbered(*range(13)), "random", 5, 0, 1)
    assert np.bincount(folds.fold_of).tolist() == [3, 3, 3, 2, 2]


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.sets(st.integers(0, 400), min_size=40, max_size=120),
    kind=st.sampled_from(["random", "blocked", "scene"]),
    count=st.integers(2, 5),
    blocks=st.integers(1, 8),
)
def test_every_frame_validates_exactly_one_fold(
    numbers: set[int], kind: str, count: int, blocks: int
) -> None:
    stems = [f"{number:06d}" for number in sorted(numbers)]
    samples = frames(stems, [f"room{position // 5}" for position in range(len(stems))])
    folds = make_folds(samples, kind, count, 42, blocks)
    assert folds.count == count
    validated = np.concatenate([folds.validation(fold) for fold in range(count)])
    assert sorted(validated.tolist()) == list(range(len(samples)))
    for fold in range(count):
        both = np.concatenate([folds.training(fold), folds.validation(fold)])
        assert sorted(both.tolist()) == list(range(len(samples)))
        assert len(folds.validation(fold)) > 0
    assert 0 <= folds.leakage <= 1
    again = make_folds(samples, kind, count, 42, blocks)
    assert again.fold_of.tolist() == folds.fold_of.tolist()


def test_neighbours_are_consecutive_numbers_behind_one_prefix() -> None:
    samples = frames(["a1", "a2", "a4", "b3", "b10", "b9", "plain"])
    assert neighbours(samples) == [[1], [0], [], [], [5], [4], []]


def test_neighbours_without_numbers_are_the_adjacent_stems() -> None:
    assert neighbours(frames(["ant", "bee", "cat"])) == [[1], [0, 2], [1]]


def test_leakage_counts_validation_frames_with_a_neighbour_in_training() -> None:
    # Frames 0 1 | 2 3 in folds 0 | 1: only 1 and 2 have a neighbour across the cut.
    assert make_folds(numbered(0, 1, 2, 3), "blocked", 2, 42, 1).leakage == 0.5
    # A gap between them: nobody leaks.
    assert make_folds(numbered(0, 1, 3, 4), "blocked", 2, 42, 1).leakage == 0.0


def test_blocked_cuts_move_to_a_gap_in_the_numbering() -> None:
    # Even cuts would fall after 10 frames; the gap is after 8.
    samples = numbered(*range(8), *range(20, 32))
    folds = make_folds(samples, "blocked", 2, 42, 1)
    assert folds.leakage == 0.0
    assert sorted(np.bincount(folds.fold_of).tolist()) == [8, 12]


def test_blocked_folds_order_unpadded_numbers_by_value() -> None:
    samples = frames(sorted(str(number) for number in range(20)))
    folds = make_folds(samples, "blocked", 2, 42, 1)
    of = {sample.stem: int(fold) for sample, fold in zip(samples, folds.fold_of, strict=True)}
    assert len({of[str(number)] for number in range(10)}) == 1
    assert folds.leakage == pytest.approx(0.1)


def test_blocked_folds_spread_over_the_recording_and_stay_even() -> None:
    numbers = [scene * 14 + frame for scene in range(40) for frame in range(13)]
    folds = make_folds(numbered(*numbers), "blocked", 5, 42, 8)
    assert folds.leakage == 0.0
    assert np.bincount(folds.fold_of).tolist() == [104] * 5
    for fold in range(5):
        assert np.bincount(folds.validation(fold) * 8 // 520, minlength=8).tolist() == [13] * 8


def test_scene_folds_keep_scenes_whole_and_sizes_even() -> None:
    sizes = {"a": 7, "b": 5, "c": 4, "d": 4, "e": 2, "f": 2}
    scenes = [scene for scene, size in sizes.items() for _ in range(size)]
    samples = frames([f"{number:03d}" for number in range(len(scenes))], scenes)
    folds = make_folds(samples, "scene", 3, 42, 1)
    for scene in sizes:
        members = [fold for fold, of in zip(folds.fold_of, scenes, strict=True) if of == scene]
        assert len(set(members)) == 1
    assert np.bincount(folds.fold_of).tolist() == [9, 7, 8]


def test_folds_are_written_by_stem(tmp_path: Path) -> None:
    samples = numbered(*range(4))
    folds = make_folds(samples, "blocked", 2, 42, 2)
    folds.file(samples).write(tmp_path / "folds.json")
    assert json.loads((tmp_path / "folds.json").read_text(encoding="utf-8")) == {
        "kind": "blocked",
        "leakage": folds.leakage,
        "fold_of": dict(zip([sample.stem for sample in samples], folds.fold_of, strict=True)),
    }
    assert FoldsFile.read(tmp_path / "folds.json") == folds.file(samples)


@pytest.mark.parametrize(
    ("samples", "kind", "count", "blocks", "words"),
    [
        (numbered(1, 2, 3), "random", 5, 1, "3 frames cannot fill 5 folds"),
        (numbered(*range(12)), "blocked", 4, 8, "lower data.blocks_per_fold to 3"),
        (frames(["1", "2", "3"], ["a", "a", "b"]), "scene", 3, 1, "2 scenes cannot fill 3 folds"),
        (numbered(1, 2, 3), "scene", 2, 1, "add scenes.csv"),
        (frames(["1", "2", "3"], ["a", "b", "c"])[:2] + numbered(3), "scene", 2, 1, "000003"),
        (numbered(1, 2, 3), "stratified", 2, 1, "random, blocked, scene"),
        (numbered(1, 2, 3), "random", 1, 1, "at least 2"),
    ],
)
def test_impossible_folds_are_one_clear_error(
    samples: list[Sample], kind: str, count: int, blocks: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make_folds(samples, kind, count, 42, blocks)


def test_an_unknown_fold_is_an_error() -> None:
    folds = make_folds(numbered(*range(4)), "random", 2, 42, 1)
    with pytest.raises(ValueError, match=r"fold 2 does not exist; there are 0 .. 1"):
        folds.validation(2)


def test_nyuv2_leaks_in_random_folds_and_hardly_in_blocked_ones(nyuv2_root: Path) -> None:
    samples = frames(sorted(path.stem for path in (nyuv2_root / "train" / "label").iterdir()))
    assert len(samples) == 795
    assert make_folds(samples, "random", 5, 42, 8).leakage == pytest.approx(0.90, abs=0.01)
    blocked = make_folds(samples, "blocked", 5, 42, 8)
    assert blocked.leakage < 0.01
    sizes = np.bincount(blocked.fold_of)
    assert sizes.max() - sizes.min() <= 2
