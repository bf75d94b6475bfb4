"""One pass over a dataset checks it and makes the cache of its decoded frames."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.frames import build
from engine.frames.cache import Layout, open_frames
from engine.frames.index import CheckMemory, DatasetError
from tests.frames.small_dataset import PLENTY, load


def names(folder: Path | None) -> list[str]:
    assert folder is not None
    return sorted(path.name.partition("-")[0] for path in folder.iterdir())


@pytest.fixture
def keeping(memory: CheckMemory) -> CheckMemory:
    assert memory.folder is not None
    return CheckMemory(memory.folder, frame_bytes=PLENTY)


def test_the_pass_that_checks_also_makes_the_cache(
    root: Path, tmp_path: Path, keeping: CheckMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keeping.folder is not None
    samples = load(root, keeping).train.samples
    assert names(keeping.folder) == [".lock", "checked", "frames"]
    open_frames(samples, tmp_path / "other", 1, 0)
    (made,), (other,) = (
        list(folder.glob("frames-*")) for folder in (keeping.folder, tmp_path / "other")
    )
    assert made.name == other.name
    for file in other.iterdir():
        assert (made / file.name).read_bytes() == file.read_bytes()
    monkeypatch.setattr(build, "read_whole", None)
    open_frames(samples, keeping.folder, 1, 0)


def test_a_changed_frame_makes_another_cache_in_one_pass(
    root: Path, keeping: CheckMemory, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keeping.folder is not None
    load(root, keeping)
    Image.fromarray(np.zeros((22, 30), np.uint8)).save(root / "train" / "label" / "2.png")
    read.clear()
    samples = load(root, keeping).train.samples
    assert read == ["0", "1", "2", "3", "4"]
    assert names(keeping.folder) == [".lock", "checked", "frames", "frames"]
    monkeypatch.setattr(build, "read_whole", None)
    open_frames(samples, keeping.folder, 1, 0)


def test_a_cache_that_is_there_is_left_as_it_is(
    root: Path, tmp_path: Path, keeping: CheckMemory
) -> None:
    assert keeping.folder is not None
    samples = load(root, None).train.samples
    open_frames(samples, keeping.folder, 1, 0)
    (made,) = keeping.folder.glob("frames-*")
    before = made.stat().st_ino
    load(root, keeping)
    assert made.stat().st_ino == before
    assert names(keeping.folder) == [".lock", "checked", "frames"]


@pytest.mark.parametrize("obstacle", ["limit", "disk", "full", "lock", "fault", "none"])
def test_where_frames_cannot_be_kept_the_check_is_the_same_and_leaves_no_part(
    obstacle: str, root: Path, keeping: CheckMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keeping.folder is not None
    keeping.folder.mkdir()
    samples = load(root, None).train.samples
    limit = sum(Layout(samples).sizes.values()) * (7 / 8 if obstacle == "limit" else 8 / 7)
    memory = CheckMemory(keeping.folder, frame_bytes=int(limit))
    if obstacle == "disk":
        usage = shutil.disk_usage(root)._replace(free=(1 << 30) + 1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    elif obstacle == "full":

        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
    elif obstacle == "fault":
        (root / "train" / "depth" / "3.png").write_bytes(b"")
    with (keeping.folder / ".lock").open("w") as lock:
        if obstacle == "lock":
            fcntl.flock(lock, fcntl.LOCK_EX)
        if obstacle == "fault":
            with pytest.raises(DatasetError):
                load(root, memory)
        else:
            assert load(root, memory).train.samples == samples
    kept = ["frames"] if obstacle == "none" else []
    assert names(keeping.folder) == [".lock", "checked", *kept]
