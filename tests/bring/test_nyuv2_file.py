"""prepare nyuv2: every pixel is that of a file of the official structure; others are refused."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from engine import prepare
from engine.bring.nyuv2_tables import official_split, published_tables, with_mapping
from engine.cli import load_config
from engine.frames.index import DatasetSpec, load_dataset
from engine.frames.reading import Reading
from engine.mistakes import ConfigError
from tests.bring import official_file
from tests.bring.full_size import peak_mib

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 40
TRAIN = [n for n in range(1, FRAMES + 1) if n % 3]
TEST = [n for n in range(1, FRAMES + 1) if not n % 3]
META = Path(os.environ.get("ROOMSMITH_NYUV2", ROOT.parent / "shared/data/nyuv2")).with_name(
    "nyuv2_meta"
)
has_meta = pytest.mark.skipif(not META.is_dir(), reason="the published tables are not here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    official_file.write(folder / "labeled.mat", FRAMES)
    official_file.write_splits(folder / "splits.mat", TRAIN, TEST)
    return folder


def bring(made: Path, out: Path, *flags: str) -> None:
    splits = str(made / "splits.mat")
    words = ["nyuv2", str(made / "labeled.mat"), "--splits", splits, "--out", str(out), *flags]
    assert prepare.main(words) == 0


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as opened:
        return np.array(opened)


def rows_of_the_table() -> dict[int, int]:
    with (ROOT / "engine/bring/nyuv2_labels.csv").open(encoding="utf-8") as stream:
        return {int(row["label"]): int(row["class40"]) for row in csv.DictReader(stream)}


@pytest.mark.parametrize(("classes", "depth"), [(13, "filled"), (40, "raw"), (894, "filled")])
def test_every_pixel_is_that_of_the_file(
    made: Path, tmp_path: Path, classes: int, depth: str
) -> None:
    out = tmp_path / "out"
    bring(made, out, "--classes", str(classes), "--depth", depth)
    to_40 = rows_of_the_table()
    # Published: wall, floor, cabinet, ... of the 40 to bed, books, ceiling, ... of the 13.
    to_13 = (
        "12 5 6 1 4 9 10 12 13 6 8 6 13 10 6 13 6 7 7 5 7 3 2 6 11 7 7 7 7 7 7 6 7 7 7 7 7 7 6 7"
    )
    thirteen = [int(word) for word in to_13.split()]
    found_255 = 0
    with h5py.File(made / "labeled.mat") as file:
        name = "depths" if depth == "filled" else "rawDepths"
        for number in range(FRAMES):
            split = "train" if number + 1 in TRAIN else "test"
            files = {kind: out / split / kind / f"{number:06d}.png" for kind in ("image", "depth")}
            image, millimetres = pixels(files["image"]), pixels(files["depth"])
            label = pixels(out / split / "label" / f"{number:06d}.png")
            # Whole arrays, with the axes as MATLAB has them: rows, columns, colours.
            stored = np.moveaxis(file["images"][number], [2, 1, 0], [0, 1, 2])
            assert np.array_equal(image, stored)
            metres = file[name][number].astype(np.float64).swapaxes(0, 1)
            assert millimetres.dtype == np.uint16
            assert np.abs(millimetres - metres * 1000).max() <= 0.5
            assert (millimetres == 0).sum() == (metres == 0).sum()
            for row, column in np.ndindex(label.shape):
                given = int(file["labels"][number, column, row]) if row % 4 == 0 else -1
                if given < 0:
                    continue
                if classes == 894:
                    needed = given
                elif given == 0:
                    needed = 255
                else:
                    needed = (to_40[given] if classes == 40 else thirteen[to_40[given] - 1]) - 1
                assert label[row, column] == needed
            found_255 += int((label == 255).sum())
    assert found_255
    with (out / "scenes.csv").open(encoding="utf-8") as stream:
        rows = {row["stem"]: row["scene"] for row in csv.DictReader(stream)}
    assert rows == {f"{n:06d}": official_file.scene_of(n) for n in range(FRAMES)}


def test_the_folder_is_a_dataset_with_scene_folds(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    bring(made, out, "--classes", "894")
    shown = capsys.readouterr().out
    assert f"{out}: 27 train, 13 test frames, 8 scenes" in shown
    assert "unlabelled: 0, which is no class here" in shown
    config = load_config([out / "dataset.toml"])
    data = config.data
    assert data.classes[-1] == "otherprop"
    assert data.label_map["255"] != "ignore"
    spec = DatasetSpec(data.classes, (), need_depth=True, reading=Reading.of(data))
    dataset = load_dataset(out, spec)
    assert {sample.scene for sample in dataset.train.samples} <= {
        official_file.scene_of(n) for n in range(FRAMES)
    }
    bring(made, tmp_path / "forty", "--classes", "40")
    forty = load_config([tmp_path / "forty/dataset.toml"]).data
    plain = load_dataset(tmp_path / "forty", DatasetSpec(forty.classes, (), need_depth=True))
    # The 894 labels, read by the map that came with them, are the 40 classes.
    assert [each.class_pixels for each in dataset.train.reports] == [
        each.class_pixels for each in plain.train.reports
    ]
    words = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(words, cwd=out, check=False).returncode == 0


def test_a_killed_call_goes_on_and_damage_is_found(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    bring(made, whole)
    # Killed while its tenth frame is written: by itself, so that the moment is the same each time.
    script = (
        "import os, signal, sys; from engine.bring import folder; from engine import prepare\n"
        "write, count = folder._write, [0]\n"
        "def dying(path, found, level):\n"
        "    count[0] += 1\n"
        "    if count[0] == 30: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write(path, found, level)\n"
        "folder._write = dying\n"
        "prepare.main(sys.argv[1:])"
    )
    words = ["nyuv2", str(made / "labeled.mat"), "--splits", str(made / "splits.mat")]
    done = subprocess.run(
        [sys.executable, "-c", script, *words, "--out", str(out)], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    part = tmp_path / "out.unfinished"
    assert not out.exists()
    listed = (part / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert 5 <= len(listed) // 3 < 12
    # A torn line, as a kill may leave it, and a frame that was damaged since.
    with (part / "SHA256SUMS").open("a", encoding="utf-8") as stream:
        stream.write("0123  train/im")
    (part / listed[0].split("  ")[1]).write_bytes(b"spoilt")
    capsys.readouterr()
    bring(made, out)
    shown = capsys.readouterr().out
    assert f"{len(listed) // 3 - 1} frames of an earlier call were whole and kept" in shown
    assert "1 were damaged and made again" in shown
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    for name in files:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not part.exists()
    bring(made, out)
    assert f"{out} is complete; nothing to do" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"was made otherwise \(classes: 13, now 40\)"):
        bring(made, out, "--classes", "40")


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("six") / "file.mat"
    official_file.write(file, 6)
    return file


def spoilt(folder: Path, six: Path, kind: str) -> tuple[Path, Path]:
    """A pair of files, one of which is another than it should be."""
    file, splits = folder / "file.mat", folder / "splits.mat"
    shutil.copyfile(six, file)
    official_file.write_splits(splits, [1, 2, 3], [4, 5, 6])
    if kind == "html":
        file.write_text("\n <!DOCTYPE html><html><body>Sign in</body></html>", encoding="utf-8")
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:30_000])
    elif kind == "v5":
        scipy.io.savemat(file, {"images": np.zeros(3)})
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "splits html":
        splits.write_text("<html></html>", encoding="utf-8")
    elif kind == "splits v7.3":
        splits.write_bytes(file.read_bytes())
    elif kind == "splits truncated":
        official_file.write_splits(splits, range(1, 1000), [])
        splits.write_bytes(splits.read_bytes()[:700])
    elif kind == "splits of others":
        official_file.write_splits(splits, [1, 2, 3], [4, 5, 7])
    elif kind == "splits without":
        scipy.io.savemat(splits, {"trainNdxs": [1]})
    elif kind == "names":
        official_file.write(file, 6, names=[*published_tables().names[:-1], "unicorn"])
    else:
        _spoil_hdf5(file, kind)
    return file, splits


def _spoil_hdf5(file: Path, kind: str) -> None:
    with h5py.File(file, "r+") as opened:
        if kind == "no depths":
            del opened["depths"]
        elif kind == "shapes":
            labels = opened["labels"][:, :, :-1]
            del opened["labels"]
            opened["labels"] = labels
        elif kind == "axes":
            images = opened["images"][()].transpose(0, 3, 2, 1)
            del opened["images"]
            opened["images"] = images
        elif kind == "depth type":
            del opened["depths"]
            opened["depths"] = np.zeros(opened["labels"].shape, np.uint16)
        elif kind == "label":
            opened["labels"][2, 0, 0] = 895
        elif kind == "scenes":
            del opened["scenes"]
            opened["scenes"] = np.zeros((1, 6))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("html", "file.mat is a web page (HTML), not the file that its link led to: download"),
        ("truncated", "file.mat is truncated, it ends after 30,000 bytes; needed: nyu_depth_v2"),
        ("v5", "file.mat is a MATLAB file of version 5; needed: nyu_depth_v2_labeled.mat, a MAT"),
        ("empty", "file.mat is an empty file (0 bytes)"),
        ("splits html", "splits.mat is a web page (HTML)"),
        ("splits v7.3", "splits.mat is a MATLAB file of version 7.3 (HDF5); needed: splits.mat"),
        ("splits truncated", "splits.mat is a broken or truncated MATLAB file"),
        ("splits of others", "splits.mat is of numbers 1 to 7, 6 of them; needed: each frame of"),
        ("splits without", "splits.mat is a MATLAB file of trainNdxs; needed: splits.mat with"),
        ("names", "label 894 is 'unicorn'; needed: "),
        ("no depths", "file.mat is without depths (it holds images, labels, names, rawDepths"),
        ("shapes", "file.mat is of labels of (6, 32, 23), uint16, and images of (6, 3, 32, 24)"),
        ("axes", "file.mat is of images of (6, 24, 32, 3), uint8; needed: nyu_depth_v2_labeled"),
        ("depth type", "file.mat is of depths of (6, 32, 24), uint16; needed"),
        ("label", "file.mat is of another data set: label 895 in frame 3; needed: labels 0 to 894"),
        ("scenes", "file.mat is of scenes of (1, 6), float64; needed: nyu_depth_v2_labeled.mat,"),
    ],
)
def test_another_file_is_one_line_that_names_it(
    six: Path, tmp_path: Path, kind: str, told: str
) -> None:
    file, splits = spoilt(tmp_path, six, kind)
    words = ["nyuv2", str(file), "--splits", str(splits), "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError) as error:
        prepare.main(words)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_official_split_is_of_1449_frames(made: Path, tmp_path: Path) -> None:
    trains = official_split(1449)
    assert trains.sum() == 795
    assert np.flatnonzero(trains)[:4].tolist() == [2, 3, 4, 5]
    words = ["nyuv2", str(made / "labeled.mat"), "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match=r"1,449 frames and the file has 40; .*--splits FILE"):
        prepare.main(words)


def test_without_h5py_the_line_to_type_is_told(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RuntimeError, match="h5py is not installed: pip install h5py"):
        bring(made, tmp_path / "out")


@has_meta
def test_the_tables_are_the_published_ones(tmp_path: Path) -> None:
    tables = published_tables()
    held = scipy.io.loadmat(META / "classMapping40.mat", squeeze_me=True)
    assert tables.names == tuple(map(str, held["allClassName"]))
    assert tables.classes(40) == tuple(map(str, held["className"]))
    splits = scipy.io.loadmat(META / "splits.mat", squeeze_me=True)
    assert (np.flatnonzero(official_split(1449)) + 1).tolist() == splits["trainNdxs"].tolist()
    for name in ("classMapping40.mat", "class13Mapping.mat"):
        again = with_mapping(tables, META / name)
        for count in (13, 40):
            assert np.array_equal(again.of_label(count), tables.of_label(count))
    with pytest.raises(ConfigError, match="testNdxs, trainNdxs; needed: classMapping40.mat"):
        with_mapping(tables, META / "splits.mat")
    page = tmp_path / "classMapping40.mat"
    page.write_text("<!DOCTYPE html>", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a web page"):
        with_mapping(tables, page)


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    # 270 frames more are 180 MiB more of images, depths and labels.
    peaks = []
    for frames in (30, 300):
        file = tmp_path / f"{frames}.mat"
        official_file.write(file, frames, (240, 320), chunk=16, written=[0])
        peaks.append(peak_mib(file, frames, tmp_path / f"{frames}")[0])
    assert peaks[1] - peaks[0] < 90
