"""Leakage by content is what it is, whatever the frames are called; strangers do not leak."""

import base64
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.data import likeness
from engine.data.alike import Alike, find_alike, natural_order
from engine.data.folds import FoldsFile, make_folds
from engine.data.leakage import ContentLeakage
from engine.frames.decode import Sample
from engine.frames.thumbnail import CELLS_HW, thumbnail
from tests.drawn_frames import (
    Images,
    clouds,
    independent,
    landscape,
    panning,
    random_names,
    rectangles,
    standing,
    walking,
)

Clip = Callable[[np.random.Generator], Images]


def cells(images: Images) -> NDArray[np.uint8]:
    content = b"".join(base64.b64decode(thumbnail(image)) for image in images)
    return np.frombuffer(content, np.uint8).reshape(-1, *CELLS_HW, 3)


def samples(stems: list[str]) -> list[Sample]:
    return [Sample(stem, Path(f"{stem}.png"), None, None, (4, 4), None) for stem in stems]


def every_30th(count: int) -> list[str]:
    return [f"{30 * frame}" for frame in range(count)]


def alike(images: Images, stems: list[str]) -> Alike:
    """As of a dataset: frames sorted by stem."""
    by = sorted(range(len(stems)), key=stems.__getitem__)
    return find_alike(cells([images[frame] for frame in by]), [stems[frame] for frame in by])


def leakage(images: Images, stems: list[str], seed: int) -> ContentLeakage:
    folds = make_folds(samples(sorted(stems)), "random", 5, seed, 1, alike(images, stems))
    assert folds.content is not None
    return folds.content


def truth(clips: list[int], stems: list[str], seed: int) -> float:
    """What `leakage` is of frames that are numbered one by one, with a gap between clips."""
    numbers = [100_000 + 1000 * clip + frame for clip, n in enumerate(clips) for frame in range(n)]
    by = sorted(range(len(stems)), key=stems.__getitem__)
    # The same folds: a fold is drawn by place.
    folds = make_folds(samples(sorted(stems)), "random", 5, seed)
    fold_of = np.empty(len(stems), np.int64)
    fold_of[by] = folds.fold_of
    there = dict(zip(numbers, fold_of, strict=True))
    leaks = [any(there.get(n + d, f) != f for d in (-1, 1)) for n, f in there.items()]
    return float(np.mean(leaks))


VIDEOS: list[tuple[str, Clip, int]] = [
    ("slow pan", partial(panning, frames=25, step=6), 8),
    ("fast pan", partial(panning, frames=15, step=30), 12),
    ("walk", partial(walking, frames=25), 8),
    ("stand", partial(standing, frames=20), 8),
    ("one pan", partial(panning, frames=120, step=16), 1),
]


@pytest.mark.parametrize("names", [every_30th, random_names])
@pytest.mark.parametrize(("clip", "count"), [v[1:] for v in VIDEOS], ids=[v[0] for v in VIDEOS])
def test_random_folds_of_a_video_leak_as_much_as_they_do(
    clip: Clip, count: int, names: Callable[[int], list[str]]
) -> None:
    clips = [clip(np.random.default_rng(seed)) for seed in range(count)]
    images, lengths = list(chain(*clips)), [len(images) for images in clips]
    stems = names(len(images))
    for seed in (0, 42):
        found = leakage(images, stems, seed)
        assert found.share == pytest.approx(truth(lengths, stems, seed), abs=0.05)
        assert not make_folds(samples(sorted(stems)), "random", 5, seed).numbered


@pytest.mark.parametrize("draw", [clouds, rectangles, partial(rectangles, colours=20), landscape])
@pytest.mark.parametrize("count", [12, 60, 300])
def test_independent_pictures_do_not_leak(
    draw: Callable[[np.random.Generator], NDArray[np.uint8]], count: int
) -> None:
    images = independent(draw, count)
    for stems in (every_30th(count), random_names(count)):
        share = leakage(images, stems, 42).share
        assert share is not None
        assert share < 0.02


def test_a_picture_that_comes_twice_is_found_among_others() -> None:
    images = independent(clouds, 60)
    rng = np.random.default_rng(0)
    images[50] = np.clip(images[3] * 1.1 + rng.normal(0, 5, images[3].shape), 0, 255).astype(
        np.uint8
    )
    found = alike(images, [f"{frame:02d}" for frame in range(60)])
    fold_of = np.arange(60) % 5
    fold_of[[3, 50]] = 0, 1
    stems = [f"{frame:02d}" for frame in range(60)]
    measured = found.leakage(fold_of, stems)
    assert measured.share == pytest.approx(2 / 60)
    assert measured.closest == ("03", "50")
    assert measured.alike == pytest.approx(1, abs=0.05)
    fold_of[50] = 0
    assert found.leakage(fold_of, stems).share == 0


def test_copies_of_one_picture_all_leak() -> None:
    image = clouds(np.random.default_rng(0))
    assert leakage([image] * 30, every_30th(30), 42).share == 1
    other = clouds(np.random.default_rng(1))
    both = [image, other] * 6
    assert leakage(both, random_names(12), 42).share == 1
    assert sorted(np.bincount(alike(both, every_30th(12)).group_N)) == [6, 6]


def test_blank_pictures_are_not_measured() -> None:
    blank = [np.full((96, 128, 3), 40 + frame % 2, np.uint8) for frame in range(10)]
    found = leakage(blank, every_30th(10), 42)
    assert found.share is None
    assert found.told() == "not measured (the pictures are blank)"


def test_alike_is_one_for_the_same_and_ignores_light_and_small_shifts() -> None:
    rng = np.random.default_rng(4)
    wide = clouds(rng, (128, 192))
    here, there = wide[:96, :128], wide[20:116, 40:168]
    brighter = np.clip(here * 1.15 + 10, 0, 255).astype(np.uint8)
    grid = cells([here, here, brighter, there, clouds(rng)])
    pairs = np.array([(0, 1), (0, 2), (0, 3), (0, 4)])
    same, lit, shifted, other = likeness.alike_pairs(grid, pairs)
    assert same == 1
    assert lit > 0.9
    assert shifted > 0.8
    assert other < 0.6
    # All at once, in blocks, it is the same.
    found = likeness.likeness(grid)
    first = [found.drawn_K[(found.drawn_K2 == pair).all(axis=1)][0] for pair in pairs]
    assert first == pytest.approx([same, lit, shifted, other])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = cells(panning(np.random.default_rng(0), 20, 8))
    whole = likeness.likeness(grid)
    monkeypatch.setattr(likeness, "_BLOCK", 7)
    parts = likeness.likeness(grid)
    by_pair = [np.lexsort(found.pair_P2.T) for found in (whole, parts)]
    assert (whole.pair_P2[by_pair[0]] == parts.pair_P2[by_pair[1]]).all()
    assert whole.alike_P[by_pair[0]] == pytest.approx(parts.alike_P[by_pair[1]])
    assert whole.nearest_N == pytest.approx(parts.nearest_N)
    assert len(parts.drawn_K) == 20 * 19 // 2


def test_the_natural_order_counts() -> None:
    stems = ["a10", "a9", "b", "a9c2", "a9c10", "a"]
    assert [stems[frame] for frame in natural_order(stems)] == [
        *("a", "a9", "a9c2", "a9c10", "a10", "b")
    ]


def test_content_folds_let_nothing_alike_cross_and_stay_even() -> None:
    clips = [panning(np.random.default_rng(seed), 8 + 4 * (seed % 3), 8) for seed in range(12)]
    images, clip_of = list(chain(*clips)), np.repeat(range(12), [len(clip) for clip in clips])
    for names in (every_30th, random_names):
        stems = names(len(images))
        by = sorted(range(len(stems)), key=stems.__getitem__)
        found = alike(images, stems)
        folds = make_folds(samples(sorted(stems)), "content", 3, 42, 1, found)
        for clip in range(12):
            assert len(set(folds.fold_of[clip_of[by] == clip])) == 1
        assert folds.content is not None
        assert folds.content.share == 0
        sizes = np.bincount(folds.fold_of)
        assert sizes.max() - sizes.min() <= 16
        again = make_folds(samples(sorted(stems)), "content", 3, 42, 1, found)
        assert again.fold_of.tolist() == folds.fold_of.tolist()
        others = make_folds(samples(sorted(stems)), "content", 3, 1, 1, found)
        assert others.fold_of.tolist() != folds.fold_of.tolist()


def test_content_folds_of_one_video_are_refused() -> None:
    found = alike(panning(np.random.default_rng(0), 30, 8), every_30th(30))
    stems = sorted(every_30th(30))
    with pytest.raises(ValueError, match=r"1 groups .* fill 2 folds: the largest holds 30 of 30"):
        make_folds(samples(stems), "content", 2, 42, 1, found)


def test_folds_json_says_what_was_measured_and_how(tmp_path: Path) -> None:
    images, stems = independent(clouds, 12), sorted(every_30th(12))
    frames = samples(stems)
    folds = make_folds(frames, "random", 2, 42, 1, find_alike(cells(images), stems))
    folds.file(frames).write(tmp_path / "folds.json")
    read = FoldsFile.read(tmp_path / "folds.json")
    assert read == folds.file(frames)
    assert read.leakage_measured is False
    assert read.leakage_content == folds.content
    assert read.leakage_content is not None
    assert "no two pictures alike" in read.leakage_content.method


def test_nyuv2_leaks_whatever_its_numbers_are(nyuv2_root: Path) -> None:
    from PIL import Image

    paths = sorted((nyuv2_root / "train" / "image").iterdir())
    images = [np.asarray(Image.open(path)) for path in paths]
    numbers = [int(path.stem) for path in paths]
    frames = samples([path.stem for path in paths])
    known = make_folds(frames, "random", 5, 42).leakage
    stems = [f"{30 * number:06d}" for number in numbers]
    # Neighbours in NYU Depth v2 are often views of one room from elsewhere: hard for thumbnails.
    assert leakage(images, stems, 42).share == pytest.approx(known, abs=0.08)
    share = leakage(images[::8], every_30th(100), 42).share
    assert share is not None
    assert share <= 0.02
