"""What goes from the cache of decoded frames, what stays, and what `engine.prepare cache` says."""

import gc
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import prepare
from engine.frames.cache import GIB, Layout, open_frames
from engine.frames.decode import Sample
from engine.frames.prune import cache_entries, prune
from tests.frames.small_dataset import PLENTY

WriteFrames = Callable[[Path, str], list[Sample]]


@pytest.fixture
def caches(tmp_path: Path, write_frames: WriteFrames) -> tuple[Path, list[list[Sample]]]:
    """A cache folder with the frames of three data sets, used 1, 2 and 3 days ago."""
    folder, made = tmp_path / "cache", []
    for number, name in enumerate(("a", "b", "c")):
        root = tmp_path / name / "train" / "image"
        root.mkdir(parents=True)
        samples = write_frames(root, "jpg")[: 3 + number]
        open_frames(samples, folder, 1, PLENTY)
        used(folder, samples, days_ago=number + 1)
        made.append(samples)
    gc.collect()  # what was mapped just now is no more
    return folder, made


def used(folder: Path, samples: list[Sample], days_ago: float) -> None:
    at = time.time() - days_ago * 86_400
    os.utime(Layout(samples).place(folder) / "manifest.json", (at, at))


def left(folder: Path) -> list[str]:
    return sorted(Path(entry.dataset).name for entry in cache_entries(folder))


def test_what_nobody_used_for_long_goes(caches: tuple[Path, list[list[Sample]]]) -> None:
    folder, (a, _, _) = caches
    gone = prune(folder, None, 1.5, wait=True)
    assert sorted(Path(entry.dataset).name for entry in gone) == ["b", "c"]
    assert left(folder) == ["a"]
    assert [path.name for path in folder.iterdir() if path.name[0] == "."] == [".lock"]
    used(folder, a, days_ago=-5)  # the clock was set back since
    assert prune(folder, None, 1.5, wait=True) == []


def test_what_killed_processes_left_half_made_goes(tmp_path: Path) -> None:
    (tmp_path / ".frames.part").mkdir()
    young, old = tmp_path / ".checked-1.json.1.tmp", tmp_path / ".checked-2.json.2.tmp"
    for path in (young, old):
        path.write_text("{", encoding="utf-8")
    os.utime(old, (0, 0))
    assert prune(tmp_path, None, None, wait=True) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, ".lock"]


def test_beyond_a_size_the_least_recently_used_go_first(
    caches: tuple[Path, list[list[Sample]]],
) -> None:
    folder, (a, _, c) = caches
    used(folder, a, days_ago=4)
    size = sum(entry.size for entry in cache_entries(folder))
    assert prune(folder, size / GIB, None, wait=True) == []
    assert [Path(e.dataset).name for e in prune(folder, (size - 1) / GIB, None, wait=True)] == ["a"]
    open_frames(c, folder, 1, PLENTY)  # to use it is enough
    gc.collect()
    latest = cache_entries(folder)[0].size
    assert [Path(e.dataset).name for e in prune(folder, latest / GIB, None, wait=True)] == ["b"]
    assert left(folder) == ["c"]


def test_frames_in_use_stay_as_long_as_they_are(
    caches: tuple[Path, list[list[Sample]]],
) -> None:
    folder, (_, b, _) = caches
    frames = open_frames(b, folder, 1, PLENTY)
    used(folder, b, days_ago=100)
    assert [entry.dataset[-1] for entry in cache_entries(folder) if entry.in_use] == ["b"]
    assert len(prune(folder, 0, 50, wait=True)) == 2
    assert left(folder) == ["b"]
    del frames
    gc.collect()
    assert len(prune(folder, 0, None, wait=True)) == 1
    assert left(folder) == []


def test_frames_that_are_deleted_as_they_are_opened_are_made_again(
    caches: tuple[Path, list[list[Sample]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, (a, _, _) = caches
    before = open_frames(a, folder, 1, PLENTY).image_P3.clone()
    gc.collect()
    fault, looks = Layout.fault, [0]

    def deleting(self: Layout, place: Path) -> str | None:
        found, looks[0] = fault(self, place), looks[0] + 1
        if looks[0] == 1:
            assert found is None
            assert len(prune(folder, 0, None, wait=True)) == 3
        return found

    monkeypatch.setattr(Layout, "fault", deleting)
    assert open_frames(a, folder, 1, PLENTY).image_P3.equal(before)


def test_the_command_lists_the_cache_and_prunes_it(
    caches: tuple[Path, list[list[Sample]]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, (_, _, c) = caches
    used(folder, c, days_ago=91)
    (folder / f"checked-{'0' * 32}.json").write_text("{}", encoding="utf-8")

    def shown(*arguments: str) -> str:
        assert prepare.main(["cache", str(folder), *arguments]) == 0
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    listed = shown()
    for words in ("24 h 00 min ago", "2 days ago", "91 days ago", "of 1 data sets", "MiB in all"):
        assert words in listed
    assert left(folder) == ["", "a", "b", "c"]
    assert "1 deleted" in shown("--prune"), "the default age"
    assert "3 deleted" in shown("--prune", "--gib", "0")
    shutil.rmtree(folder)
    assert shown() == f"{folder}: there is no cache"
