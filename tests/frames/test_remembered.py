"""Files that did not change are not read again, and one pass over them also makes the cache."""

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine import nyuv2
from engine.frames.index import CheckMemory, Dataset, DatasetError, DatasetSpec, load_dataset
from engine.frames.remembered import TICK_NS
from tests.frames.small_dataset import PLENTY, SPEC, TEST, TRAIN, load


def assert_equal(found: Dataset, expected: Dataset) -> None:
    assert found.fingerprint == expected.fingerprint
    for name in ("train", "test"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.samples == other.samples
        for pixels, wanted in zip(one.small_pixels, other.small_pixels, strict=True):
            np.testing.assert_array_equal(pixels, wanted)
            assert pixels.dtype == wanted.dtype
        assert one.reports == other.reports


def remembered_file(memory: CheckMemory) -> Path:
    assert memory.folder is not None
    (file,) = memory.folder.glob("checked-*")
    return file


def test_a_second_check_reads_no_file_and_finds_the_same(
    root: Path, memory: CheckMemory, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(root, memory)
    assert_equal(first, load(root, None))
    read.clear()
    monkeypatch.setattr("engine.frames.decode.Image.open", None)
    seen: list[int] = []
    second = load_dataset(root, SPEC, memory=memory, progress=lambda done, total: seen.append(done))
    assert_equal(second, first)
    assert (read, seen) == ([], [])


def touch(path: Path) -> None:
    path.touch()


def rewrite_with_its_old_times(path: Path) -> None:
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace_with_its_old_times(path: Path) -> None:
    copy = path.with_name(".copy")
    shutil.copy2(path, copy)
    copy.replace(path)


@pytest.mark.parametrize("change", [touch, rewrite_with_its_old_times, replace_with_its_old_times])
@pytest.mark.parametrize("kind", ["image", "depth", "label"])
def test_a_frame_one_of_whose_files_may_have_changed_is_read_again(
    root: Path,
    memory: CheckMemory,
    read: list[str],
    change: Callable[[Path], None],
    kind: str,
) -> None:
    first = load(root, memory)
    (file,) = (root / "train" / kind).glob("2.*")
    change(file)
    read.clear()
    assert_equal(load(root, memory), first)
    assert read == ["2"]
    assert_equal(load(root, memory), first)
    assert read == ["2"]


def test_changed_content_of_the_same_size_and_time_is_found(
    root: Path, memory: CheckMemory
) -> None:
    file = root / "train" / "label" / "2.png"
    before, times = load(root, memory), file.stat()
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DatasetError, match=r"train/label/2\.png: found a damaged PNG"):
        load(root, memory)
    content[-20] ^= 1
    file.write_bytes(content)
    assert_equal(load(root, memory), before)


@pytest.mark.parametrize(("age_ns", "expected"), [(0, ["3"]), (TICK_NS + 1, [])])
def test_a_file_written_just_before_its_check_is_not_trusted(
    root: Path,
    memory: CheckMemory,
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
    age_ns: int,
    expected: list[str],
) -> None:
    hour_later_ns = (root / "train" / "depth" / "3.png").stat().st_ctime_ns + 3600 * 10**9
    os.utime(root / "train" / "depth" / "3.png", ns=(hour_later_ns, hour_later_ns))
    monkeypatch.setattr(time, "time_ns", lambda: hour_later_ns + age_ns)
    load(root, memory)
    read.clear()
    load(root, memory)
    assert read == expected


def test_added_and_removed_frames_leave_the_others_remembered(
    root: Path, memory: CheckMemory, read: list[str]
) -> None:
    load(root, memory)
    for kind, suffix in (("image", "png"), ("depth", "png")):
        shutil.copy(root / "test" / kind / f"6.{suffix}", root / "test" / kind / f"9.{suffix}")
        (root / "test" / kind).joinpath("5.jpg" if kind == "image" else "5.png").unlink()
    read.clear()
    dataset = load(root, memory)
    assert read == ["9"]
    assert_equal(dataset, load(root, None))


@pytest.mark.parametrize("gone", [{"0"}, {"1", "3"}, {"2", "4"}, {"5", "6"}])
def test_frames_are_recalled_whichever_block_they_were_written_in(
    root: Path,
    memory: CheckMemory,
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
    gone: set[str],
) -> None:
    monkeypatch.setattr("engine.frames.remembered._ROWS", 2)
    load(root, memory)
    for stem in gone:
        for file in root.glob(f"t*/*/{stem}.*"):
            file.unlink()
    if not any((root / "test").glob("*/*")):
        shutil.rmtree(root / "test")
    read.clear()
    dataset = load(root, memory)
    assert read == []
    assert_equal(dataset, load(root, None))


def test_faults_are_found_anew_and_sound_frames_beside_them_are_remembered(
    root: Path, memory: CheckMemory, read: list[str]
) -> None:
    bad = root / "train" / "image" / "2.png"
    content = bad.read_bytes()
    bad.write_bytes(b"")
    for expected in ([str(n) for n in range(TRAIN + TEST)], ["2"]):
        read.clear()
        with pytest.raises(DatasetError, match="an empty file"):
            load(root, memory)
        assert read == expected
    bad.write_bytes(content)
    assert_equal(load(root, memory), load(root, None))


def test_an_interrupted_check_goes_on_where_it_was(
    root: Path, memory: CheckMemory, read: list[str]
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_dataset(root, SPEC, workers=1, memory=memory, progress=stop)
    read.clear()
    load(root, memory)
    assert read == ["4", "5", "6"]


@pytest.mark.parametrize("harm", ["cut", "bit", "empty", "other", "folder"])
def test_a_damaged_memory_is_not_believed_and_replaced(
    root: Path, memory: CheckMemory, read: list[str], harm: str
) -> None:
    first = load(root, memory)
    file = remembered_file(memory)
    sound = file.read_bytes()
    if harm == "folder":
        file.unlink()
        file.mkdir()
    else:
        place = len(sound) // 2
        flipped = sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :]
        file.write_bytes(
            {"cut": sound[:-9], "bit": flipped, "empty": b"", "other": b"\x80\x04."}[harm]
        )
    read.clear()
    assert_equal(load(root, memory), first)
    assert len(read) == TRAIN + TEST
    assert harm == "folder" or file.read_bytes() == sound


def test_other_classes_are_another_check(root: Path, memory: CheckMemory, read: list[str]) -> None:
    load(root, memory)
    for spec in (
        DatasetSpec((*nyuv2.CLASSES, "more"), nyuv2.SMALL_CLASSES),
        DatasetSpec(nyuv2.CLASSES, nyuv2.SMALL_CLASSES[1:]),
    ):
        read.clear()
        assert_equal(load(root, memory, spec), load(root, None, spec))
        assert len(read) == 2 * (TRAIN + TEST)


def test_on_request_every_file_is_read_and_remembered_anew(
    root: Path, memory: CheckMemory, read: list[str]
) -> None:
    assert memory.folder is not None
    for _ in range(2):
        read.clear()
        load(root, CheckMemory(memory.folder, anew=True))
        assert len(read) == TRAIN + TEST
    read.clear()
    load(root, memory)
    assert read == []


def test_without_a_folder_to_remember_in_every_check_reads(
    root: Path, memory: CheckMemory, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert memory.folder is not None
    memory.folder.write_text("in the way")
    with caplog.at_level(logging.INFO, logger="engine"):
        for _ in range(2):
            load(root, CheckMemory(memory.folder, frame_bytes=PLENTY))
    assert len(read) == 2 * (TRAIN + TEST)
    assert "what was checked cannot be remembered" in caplog.text
