"""The rendered rooms are a sound, deterministic, geometrically true dataset."""

import errno
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine import nyuv2
from engine.data.folds import make_folds
from engine.frames.index import Dataset, DatasetSpec, load_dataset
from engine.full_disk import DiskFullError
from engine.rooms.dataset import render_rooms
from engine.rooms.layout import build_scene
from engine.rooms.render import render
from engine.rooms.scene import Box, Camera, Scene, Surface
from engine.rooms.texture import GLOW, PATTERNS

HW = (48, 64)
BED = nyuv2.CLASSES.index("bed")
FOCAL = HW[1] / 2 / math.tan(0.55)
"""Pixels, of the 1.1 rad wide view."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms") / "rooms"
    render_rooms(folder, scenes=12, frames=4, hw=HW)
    return folder


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return load_dataset(root, DatasetSpec(nyuv2.CLASSES, nyuv2.SMALL_CLASSES, need_depth=True))


def test_rooms_pass_the_check_of_any_dataset(dataset: Dataset) -> None:
    assert len(dataset.train.samples) == 10 * 4
    assert len(dataset.test.samples) == 2 * 4
    assert all(sample.hw == HW for sample in dataset.train.samples)
    assert len({sample.scene for sample in dataset.train.samples}) == 10


def test_every_class_occurs_and_none_drowns_the_others(dataset: Dataset) -> None:
    shares = np.sum([report.class_pixels for report in dataset.train.reports], axis=0)
    assert (shares / shares.sum() > 0.003).all()
    assert shares.max() / shares.sum() < 0.6


def test_part_of_labels_and_depth_is_missing(dataset: Dataset) -> None:
    reports = dataset.train.reports
    ignored = sum(report.ignored_pixels for report in reports) / (40 * HW[0] * HW[1])
    assert 0.02 < ignored < 0.3
    missing = [report.missing_depth for report in reports if report.missing_depth is not None]
    assert 0.01 < np.mean(missing) < 0.2
    assert len(missing) == 40


def test_depth_is_in_range_and_in_millimetres(dataset: Dataset) -> None:
    depths = []
    for sample in dataset.train.samples:
        assert sample.depth is not None
        depths.append(np.asarray(Image.open(sample.depth)))
    measured = np.stack(depths)
    measured = measured[measured > 0]
    assert measured.min() > 450
    assert measured.max() < 8000
    assert 1000 < np.median(measured) < 4000


def test_blocked_and_scene_folds_keep_rooms_together_where_random_ones_leak(
    dataset: Dataset,
) -> None:
    samples = dataset.train.samples
    assert make_folds(samples, "blocked", 5, 42, 2).leakage == 0.0
    assert make_folds(samples, "scene", 5, 42, 1).leakage == 0.0
    assert make_folds(samples, "random", 5, 42, 1).leakage > 0.8


def test_the_same_parameters_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    render_rooms(tmp_path / "again", scenes=12, frames=4, hw=HW)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len(files) == 40 * 3 + 8 * 2 + 2
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (root / file).read_bytes()


def test_a_scene_does_not_depend_on_how_many_follow(root: Path, tmp_path: Path) -> None:
    render_rooms(tmp_path / "fewer", scenes=2, frames=4, hw=HW)
    file = "train/image/000006.png"
    assert (tmp_path / "fewer" / file).read_bytes() == (root / file).read_bytes()


def test_another_seed_gives_other_rooms(root: Path, tmp_path: Path) -> None:
    render_rooms(tmp_path / "other", scenes=1, frames=1, hw=HW, seed=1)
    file = "train/image/000000.png"
    assert (tmp_path / "other" / file).read_bytes() != (root / file).read_bytes()


def test_rooms_that_are_there_are_used_at_once(root: Path) -> None:
    counted: list[int] = []
    render_rooms(root, scenes=12, frames=4, hw=HW, progress=lambda done, _: counted.append(done))
    assert counted == []


def test_other_rooms_or_files_are_never_overwritten(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds other rooms"):
        render_rooms(root, scenes=12, frames=4, hw=HW, seed=9)
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no rendered rooms"):
        render_rooms(tmp_path, scenes=1, frames=1, hw=HW)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_rendering_that_stops_half_way_leaves_no_dataset(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done * 2 >= total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_rooms(tmp_path / "rooms", scenes=2, frames=2, hw=HW, progress=stop)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
from engine.rooms.dataset import render_rooms

def kill(done, total):
    if done * 2 >= total:
        os.kill(os.getpid(), 9)

render_rooms(Path(sys.argv[1]), scenes=2, frames=2, hw=(48, 64), progress=kill)
"""


def test_what_a_killed_rendering_left_is_cleared_away(tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parent.parent.parent
    command = [sys.executable, "-c", KILLED, str(tmp_path / "rooms")]
    assert subprocess.run(command, cwd=folder, check=False).returncode == -9
    assert list(tmp_path.rglob("*.png"))
    render_rooms(tmp_path / "rooms", scenes=2, frames=2, hw=HW)
    assert [path.name for path in tmp_path.iterdir()] == ["rooms"]


def test_a_faster_process_with_the_same_rooms_wins(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "rooms"

    def race(done: int, total: int) -> None:
        if done == total:
            shutil.copytree(root, target)

    render_rooms(target, scenes=12, frames=4, hw=HW, progress=race)
    assert [path.name for path in tmp_path.iterdir()] == ["rooms"]


@pytest.mark.parametrize("wrong", [{"scenes": 0}, {"frames": 0}, {"hw": (8, 64)}, {"seed": -1}])
def test_impossible_parameters_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1 scene"):
        render_rooms(tmp_path / "rooms", **wrong)
    assert list(tmp_path.iterdir()) == []


PLAIN = Surface("plain", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.5)


def view(boxes: tuple[Box, ...], yaw: float = 0.0) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Depth and label seen along +x (turned by `yaw`) from the middle of a 6 x 6 x 2 m room."""
    camera = Camera((3.0, 3.0, 1.0), yaw, 0.0)
    scene = Scene((6.0, 6.0, 2.0), (PLAIN,) * 6, boxes, (3.0, 3.0, 1.8), 0.4, (camera,))
    _, depth, label = render(scene, camera, HW, np.random.default_rng(0))
    return depth, label


def test_wall_floor_and_ceiling_have_the_depth_of_their_planes() -> None:
    depth, label = view(())
    below = np.arange(HW[0]) + 0.5 - HW[0] / 2
    # Floor and ceiling are 1 m from the camera's height, the wall is 3 m ahead.
    expected = 1000 * np.minimum(3.0, FOCAL / np.abs(below))
    assert np.median(depth, axis=1) == pytest.approx(expected, rel=0.01)
    names = np.where(expected == 3000, "wall", np.where(below > 0, "floor", "ceiling"))
    middle = label[:, HW[1] // 2]
    seen = np.flatnonzero(middle != 255)
    assert len(seen) > 40
    assert [nyuv2.CLASSES[index] for index in middle[seen]] == names[seen].tolist()


def test_a_box_covers_the_pixels_of_its_projection_at_its_front_depth() -> None:
    box = Box((5.0, 3.0, 1.0), (0.5, 0.4, 0.3), "bed", PLAIN)
    depth, label = view((box,))
    rows, columns = np.nonzero(label == BED)
    # The front is 1.5 m away; one pixel of slack for the unlabelled border.
    assert columns.max() - columns.min() + 1 == pytest.approx(0.8 * FOCAL / 1.5, abs=2)
    assert rows.max() - rows.min() + 1 == pytest.approx(0.6 * FOCAL / 1.5, abs=2)
    front = depth[rows, columns]
    assert np.median(front[front > 0]) == pytest.approx(1500, abs=10)


def test_the_nearer_box_hides_the_farther_whatever_their_order() -> None:
    near = Box((4.5, 3.0, 1.0), (0.2, 0.3, 0.3), "bed", PLAIN, item=1)
    far = Box((5.5, 3.0, 1.0), (0.2, 0.3, 0.3), "table", PLAIN, item=2)
    for boxes in ((near, far), (far, near)):
        assert view(boxes)[1][24, 32] == BED


def test_turning_room_and_camera_together_changes_nothing() -> None:
    ahead = Box((5.0, 3.3, 1.0), (0.5, 0.2, 0.3), "bed", PLAIN)
    left = Box((2.7, 5.0, 1.0), (0.5, 0.2, 0.3), "bed", PLAIN, yaw=math.pi / 2)
    first, second = view((ahead,)), view((left,), yaw=math.pi / 2)
    assert (first[1] == second[1]).mean() > 0.99


def test_a_camera_never_stands_inside_or_behind_the_walls() -> None:
    for number in range(8):
        random = np.random.Generator(np.random.Philox(key=np.array([0, number], np.uint64)))
        scene = build_scene(random, number, 13)
        for camera in scene.cameras:
            assert all(
                0.1 < value < side - 0.1
                for value, side in zip(camera.position, scene.size, strict=True)
            )


def test_the_rooms_show_every_pattern_and_no_other() -> None:
    used: set[str] = set()
    for number in range(40):
        scene = build_scene(np.random.default_rng(number), number, 1)
        used |= {look.pattern for look in (*scene.shell, *(box.surface for box in scene.boxes))}
    assert used == set(PATTERNS)
    assert set(GLOW) <= used


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DiskFullError, match=rf"^{tmp_path} is full .*: rooms needs "):
        render_rooms(tmp_path / "rooms", scenes=1, frames=1, hw=HW)
    assert not [*tmp_path.iterdir()]
