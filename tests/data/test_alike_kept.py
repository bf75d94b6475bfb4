"""A search for frames that are alike is kept, and done again where what is kept cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.data import alike, alike_kept
from engine.data.alike import Alike, alike_frames, find_alike
from engine.data.alike_kept import kept_alike
from engine.frames.dataset import Split
from engine.frames.reading import AS_STORED
from engine.frames.samples import Samples, SmallPixels
from tests.frames.test_many_frames import findings, rooms

PICTURES, STEMS = rooms(60), [f"a{number:03d}" for number in range(60)]


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames each search was of; 50 frames are very many."""
    counts: list[int] = []

    def find(pictures: Any, stems: Any, *, exact: bool = False) -> Alike:
        counts.append(len(stems))
        return find_alike(pictures, stems, exact=exact)

    monkeypatch.setattr(alike, "EXACT", 50)
    monkeypatch.setattr(alike, "find_alike", find)
    monkeypatch.setattr(alike_kept, "find_alike", find)
    return counts


def assert_same(found: Alike, expected: Alike) -> None:
    assert found.method == expected.method
    one, other = ((each.direct_P2, each.group_N, *each.found) for each in (found, expected))
    for array, wanted in zip(one, other, strict=True):
        np.testing.assert_array_equal(array, wanted)
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)


def test_a_second_search_is_read_from_the_cache(tmp_path: Path, searched: list[int]) -> None:
    first = kept_alike(tmp_path / "cache", PICTURES, STEMS, exact=False)
    second = kept_alike(tmp_path / "cache", PICTURES, STEMS, exact=False)
    assert searched == [60]
    assert len(first.found.pair_P2) > 100
    assert_same(second, first)
    fold_of = np.arange(60) % 5
    assert second.leakage(fold_of, STEMS) == first.leakage(fold_of, STEMS)


def test_other_pictures_names_or_searches_are_not_recalled(
    tmp_path: Path, searched: list[int]
) -> None:
    kept_alike(tmp_path, PICTURES, STEMS, exact=False)
    kept_alike(tmp_path, PICTURES, STEMS, exact=True)
    kept_alike(tmp_path, PICTURES[::-1], STEMS, exact=False)
    kept_alike(tmp_path, PICTURES, [*STEMS[:-1], "b"], exact=False)
    assert len(searched) == 4


@pytest.mark.parametrize("harm", ["cut", "longer", "empty", "other", "folder", 0, 70, 200, -1])
def test_what_is_damaged_is_searched_for_again_and_replaced(
    tmp_path: Path, searched: list[int], harm: str | int
) -> None:
    first = kept_alike(tmp_path, PICTURES, STEMS, exact=False)
    (file,) = tmp_path.iterdir()
    sound = file.read_bytes()
    harmed = {"cut": sound[:-8], "longer": sound + bytes(8), "empty": b"", "other": b"\x80\x04.\n"}
    if harm == "folder":
        file.unlink()
        file.mkdir()
    elif isinstance(harm, int):
        flipped = bytearray(sound)
        flipped[harm] ^= 1
        file.write_bytes(flipped)
    else:
        file.write_bytes(harmed[harm])
    assert_same(kept_alike(tmp_path, PICTURES, STEMS, exact=False), first)
    assert len(searched) == 2
    assert harm == "folder" or file.read_bytes() == sound


@pytest.mark.parametrize(("count", "searches"), [(50, 2), (51, 1)])
def test_only_very_many_frames_are_kept(
    tmp_path: Path, searched: list[int], count: int, searches: int
) -> None:
    found = findings(count)
    split = Split(Samples(found, {}, AS_STORED, range(count)), found, SmallPixels(found))
    for _ in range(2):
        alike_frames(split, folder=tmp_path)
    assert len(searched) == searches
