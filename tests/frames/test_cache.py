"""The cache of decoded frames: made once, found again, whole or not there, rebuilt when torn."""

import fcntl
import itertools
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.frames import build
from engine.frames.cache import Layout, cache_folder, open_frames
from engine.frames.decode import Frame, Sample, read_frame
from engine.sums import sum_file
from kernels.crop_resize import Frames
from tests.frames.small_dataset import PLENTY


def opened(samples: list[Sample], folder: Path, memory: int = PLENTY) -> Frames:
    return open_frames(samples, folder, 2, memory)


def assert_holds(frames: Frames, samples: list[Sample]) -> None:
    """The buffers are the files' own pixels, one frame behind another."""
    assert frames.hw_N2.tolist() == [list(sample.hw) for sample in samples]
    for sample, first in zip(samples, frames.offset_N.tolist(), strict=True):
        frame, pixels = read_frame(sample), sample.hw[0] * sample.hw[1]
        own = slice(first, first + pixels)
        np.testing.assert_array_equal(frames.image_P3[own].view(*sample.hw, 3), frame.image_HW3)
        for buffer, part in ((frames.depth_P, frame.depth_HW), (frames.label_P, frame.label_HW)):
            assert (buffer is None) == (part is None)
            if buffer is not None and part is not None:
                np.testing.assert_array_equal(buffer[own].view(sample.hw), part)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def no_decoding() -> Iterator[None]:
    def decode(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a frame is decoded again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "read_whole", decode)
        yield


@pytest.mark.parametrize("absent", [(), ("depth",), ("label",), ("depth", "label")])
def test_the_buffers_hold_the_files_pixels_and_are_found_by_the_next_run(
    absent: tuple[str, ...],
    jpg: list[Sample],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    samples = [replace(sample, **dict.fromkeys(absent)) for sample in jpg]  # type: ignore[arg-type]
    first = opened(samples, tmp_path)
    assert_holds(first, samples)
    assert sum(part.nbytes for part in first[:3] if part is not None) == sum(
        Layout(samples).sizes.values()
    )
    before = contents(tmp_path)
    with no_decoding(), caplog.at_level(logging.INFO, logger="engine"):
        again = opened(samples, tmp_path)
    assert_holds(again, samples)
    assert contents(tmp_path) == before
    assert "mapped from" in caplog.text


def test_no_frames_need_no_cache(tmp_path: Path) -> None:
    frames = opened([], tmp_path)
    assert len(frames.image_P3) == len(frames.offset_N) == 0
    assert contents(tmp_path) == {}


def test_moved_files_are_found_again_and_changed_ones_are_not(
    tmp_path: Path, write_frames: Callable[[Path, str], list[Sample]]
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here = write_frames(tmp_path / "here", "png")
    there = write_frames(tmp_path / "there", "png")
    cache = tmp_path / "cache"
    opened(here, cache)
    before = contents(cache)
    assert_holds(opened(there, cache), there)
    assert contents(cache) == before
    assert there[0].label is not None
    Image.fromarray(np.zeros(there[0].hw, np.uint8)).save(there[0].label)
    assert_holds(opened(there, cache), there)
    assert set(before) < set(contents(cache))


@pytest.mark.parametrize(
    "harm", ["cut", "longer", "gone", "manifest", "garbled", "older", "flipped"]
)
def test_a_torn_or_stale_cache_is_made_again_and_the_log_says_so(
    harm: str, png: list[Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(png, tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    manifest, image = folder / "manifest.json", folder / "image"
    sound = contents(tmp_path)
    if harm == "cut":
        image.write_bytes(image.read_bytes()[:-1])
    elif harm == "longer":
        image.write_bytes(image.read_bytes() + b"\0")
    elif harm == "gone":
        image.unlink()
    elif harm == "manifest":
        manifest.unlink()
    elif harm == "garbled":
        manifest.write_text("{")
    elif harm == "flipped":
        image.write_bytes(bytes([image.read_bytes()[0] ^ 8]) + image.read_bytes()[1:])
    else:
        sum_file(manifest).unlink()
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "key": "older"}))
    with caplog.at_level(logging.INFO, logger="engine"):
        assert_holds(opened(png, tmp_path), png)
    assert contents(tmp_path) == sound
    why = {"older": "names other frames", "flipped": "image is damaged: bytes 0 to"}
    why["garbled"] = "manifest.json is damaged: it has 1 bytes"
    assert f"decoded frames: making {folder}" in caplog.text
    assert why.get(harm, "it is torn") in caplog.text


def test_a_file_that_cannot_be_read_is_named_and_leaves_no_cache(
    tmp_path: Path, write_frames: Callable[[Path, str], list[Sample]]
) -> None:
    samples = write_frames(tmp_path, "jpg")
    samples[4].image.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"^sample 4 cannot be read: .*4-image"):
        opened(samples, tmp_path / "cache")
    assert list(contents(tmp_path / "cache")) == [".lock"]


def test_an_interrupt_ends_the_threads_and_leaves_no_cache(
    png: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def decode(sample: Sample) -> Frame:
        decoded.append(sample.stem)
        if sample.stem == "2":
            raise KeyboardInterrupt
        return read_frame(sample)

    monkeypatch.setattr(build, "read_whole", decode)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        open_frames(png * 20, tmp_path, 1, PLENTY)
    assert threading.active_count() == before
    assert len(decoded) < 140
    assert list(contents(tmp_path)) == [".lock"]


KILLED = """
import os, pickle, sys
from pathlib import Path
from engine.frames import build
from engine.frames.cache import open_frames
samples, folder, after = pickle.loads(sys.stdin.buffer.read())
decode, count = build.read_whole, iter(range(1000))
def read_whole(sample):
    if next(count) == after:
        os.kill(os.getpid(), 9)
    return decode(sample)
build.read_whole = read_whole
open_frames(samples, folder, 1, 0)
"""


@pytest.mark.parametrize("after", [0, 5])
def test_after_a_kill_the_next_run_makes_the_cache(
    after: int, png: list[Sample], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=Path(__file__).resolve().parent.parent.parent,
        input=pickle.dumps((png, tmp_path, after)),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    left = contents(tmp_path)
    assert not any(name.endswith("manifest.json") for name in left)
    assert_holds(opened(png, tmp_path), png)
    assert sorted(name.partition("/")[2] for name in contents(tmp_path)) == [
        *("", ".depth.sum", ".image.sum", ".label.sum", ".manifest.json.sum"),
        *("dataset", "depth", "image", "label", "manifest.json"),
    ]


def test_what_a_killed_process_of_an_older_release_left_is_removed(
    png: list[Sample], tmp_path: Path
) -> None:
    old = tmp_path / ".frames-0123456789abcdef.part"
    old.mkdir()
    (old / "image").write_bytes(b"half")
    opened(png, tmp_path)
    assert not old.exists()


def test_without_room_on_the_disk_frames_are_held_in_memory_or_refused(
    png: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with caplog.at_level(logging.INFO, logger="engine"):
        assert_holds(opened(png, tmp_path), png)
    assert "cannot be kept on disk" in caplog.text
    assert "held in memory" in caplog.text
    with pytest.raises(RuntimeError, match="set runtime.cache to a folder with room"):
        opened(png, tmp_path, memory=1000)
    assert list(contents(tmp_path)) == [".lock"]


def test_a_disk_that_fills_up_on_the_way_leaves_nothing_behind(
    png: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = os.write, itertools.count()

    def full(file: int, content: Any) -> int:
        if next(count) >= 4:
            raise OSError(28, "No space left on device")
        return write(file, content[: len(content) // 2 + 1])  # and writes come in parts

    monkeypatch.setattr(os, "write", full)
    assert_holds(opened(png, tmp_path), png)
    assert list(contents(tmp_path)) == [".lock"]


def test_two_processes_make_the_cache_once(
    png: list[Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(png, tmp_path / "other")
    (made,) = (path for path in (tmp_path / "other").iterdir() if path.is_dir())
    tmp_path.joinpath("cache").mkdir()
    with (tmp_path / "cache" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=opened, args=(png, tmp_path / "cache"))
        with caplog.at_level(logging.INFO, logger="engine"):
            waiting.start()
            while "waiting for another process" not in caplog.text:
                waiting.join(0.01)
                assert waiting.is_alive()
            made.replace(tmp_path / "cache" / made.name)  # what the other one made meanwhile
            fcntl.flock(lock, fcntl.LOCK_UN)
            waiting.join()
    assert "making" not in caplog.text.partition("waiting")[2]


def test_of_many_that_begin_at_once_on_two_nodes_one_on_each_decodes(
    png: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node has its own folder; the lock is an open file's, so threads stand for processes."""
    decoded, decode = list[str](), build.read_whole

    def noted(sample: Sample) -> Frame:
        decoded.append(sample.stem)
        return decode(sample)

    monkeypatch.setattr(build, "read_whole", noted)
    folders = [tmp_path / "node0", tmp_path / "node1"] * 3
    with ThreadPoolExecutor(len(folders)) as pool:
        found = [*pool.map(partial(opened, png), folders)]
    assert sorted(decoded) == sorted([sample.stem for sample in png] * 2)
    for frames in found:
        assert_holds(frames, png)


def test_a_batch_that_writes_into_the_buffers_does_not_write_into_the_cache(
    png: list[Sample], tmp_path: Path
) -> None:
    frames = opened(png, tmp_path)
    before = contents(tmp_path)
    frames.image_P3.zero_()
    assert contents(tmp_path) == before


def test_the_cache_is_where_the_platform_keeps_such_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "roomsmith"
    for unusable in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_folder() == Path.home() / ".cache" / "roomsmith"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "roomsmith"
