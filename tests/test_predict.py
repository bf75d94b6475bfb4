"""Masks of a folder of images by a finished run."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine import predict
from engine.command import run_main, start_logging
from engine.config import Config
from engine.frames.index import DatasetError
from engine.frames.pack import pack_dataset
from engine.mistakes import ConfigError
from engine.nyuv2 import PALETTE
from engine.rundir import RunDir

FinishedRun = Any  # defined in conftest.py, which cannot be imported
ROOT = Path(__file__).resolve().parent.parent


def mask_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def run(*arguments: object) -> None:
    assert predict.main(list(map(str, arguments))) == 0


@pytest.fixture
def test_frames(tiny_config: Config) -> Path:
    return Path(tiny_config.data.root) / "test" / "image"


def test_the_masks_of_the_test_frames_are_the_submissions(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    run(finished_run.dir.root, test_frames, "--out", tmp_path / "masks")
    expected = np.load(finished_run.dir.submission)
    found = sorted((tmp_path / "masks").iterdir())
    assert [path.name for path in found] == [f"{i:03d}.png" for i in range(5)]
    assert np.array_equal(np.stack([mask_of(path) for path in found]), expected)


def test_the_masks_of_shards_are_the_submissions(
    finished_run: FinishedRun, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="engine")
    shards, out = tmp_path / "shards", tmp_path / "masks"
    pack_dataset(Path(tiny_config.data.root), shards, shard_bytes=20_000)
    run(finished_run.dir.root, shards, "--out", out)
    found = np.stack([mask_of(path) for path in sorted(out.iterdir())])
    assert np.array_equal(found, np.load(finished_run.dir.submission))
    assert "predicted are the 5 frames of test in shards" in caplog.text
    with pytest.raises(ConfigError, match="so are its depth maps; leave out --depth"):
        run(finished_run.dir.root, shards, "--out", out, "--depth", tmp_path)


def test_openvino_gives_the_same_masks(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="pip install 'roomsmith[openvino]'")
    run(finished_run.dir.root, test_frames, "--out", tmp_path, "--runtime", "openvino")
    found = np.stack([mask_of(path) for path in sorted(tmp_path.iterdir())])
    assert (found != np.load(finished_run.dir.submission)).mean() < 1e-3  # ties, by rounding


def test_on_request_each_mask_also_lies_there_in_the_colours_of_its_classes(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    run(finished_run.dir.root, test_frames, "--out", tmp_path, "--colours")
    mask = mask_of(tmp_path / "000.png")
    with Image.open(tmp_path / "colours" / "000.png") as image:
        assert np.array_equal(np.array(image), mask)
        colours = np.array(image.convert("RGB"))
    assert np.array_equal(colours, np.array(PALETTE)[mask])


def test_images_of_every_kind_are_predicted_and_what_they_went_through_is_told(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    rgb = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    plain, exif = Image.fromarray(rgb), Image.Exif()
    exif[0x0112] = 6
    for name in ("plain.png", "same.tif", "same.bmp", "same.WEBP"):
        plain.save(folder / name)
    plain.save(folder / "turned.jpg", exif=exif)
    plain.convert("L").save(folder / "grey.png")
    plain.convert("CMYK").save(folder / "print.jpg")
    plain.quantize(16).save(folder / "indexed.png")
    Image.fromarray(np.dstack([rgb, rgb[..., :1]])).save(folder / "alpha.png")
    plain.crop((0, 0, 1, 1)).save(folder / "pixel.png")
    (folder / "longer.png").write_bytes((folder / "plain.png").read_bytes() + b"more")
    for name in (".DS_Store", "._plain.png", "Thumbs.db", "notes.txt", "a.heic"):
        (folder / name).write_bytes(b"x")
    (folder / "@eaDir").mkdir()
    start_logging()
    run(finished_run.dir.root, folder, "--out", tmp_path / "masks")
    found = {path.name: mask_of(path).shape for path in (tmp_path / "masks").iterdir()}
    names = "plain grey print indexed alpha longer same.tif same.bmp same.WEBP"
    expected = dict.fromkeys([f"{name}.png" for name in names.split()], (50, 70))
    assert found == expected | {"turned.png": (70, 50), "pixel.png": (1, 1)}
    told = capsys.readouterr().out
    assert f"{folder}: 2 others skipped: a.heic, notes.txt\n" in told
    assert "3 images share their stems with others and keep their endings: same.WEBP.png" in told
    kinds = "1 4-bit indexed PNG, 1 8-bit CMYK JPEG, 1 8-bit RGBA PNG, 1 8-bit grey PNG"
    assert f"{folder}: images made 8-bit RGB: {kinds}; alpha is dropped\n" in told
    assert f"{folder}: images turned upright by EXIF (data.exif): 1 of orientation 6\n" in told
    assert f"{folder}: 1 images with bytes after the end of the picture" in told
    plain_mask = mask_of(tmp_path / "masks" / "plain.png")
    for name in ("longer", "alpha", "same.tif", "same.bmp"):
        assert np.array_equal(mask_of(tmp_path / "masks" / f"{name}.png"), plain_mask)


def test_masks_never_replace_the_images(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "image"
    shutil.copytree(test_frames, folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        ConfigError, match=r"is the folder of image 0\d\d.png: masks would replace its files"
    ):
        run(finished_run.dir.root, folder, "--out", folder / ".." / "image")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_frames_of_any_size_and_format_get_masks_of_their_own_size(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    sizes = {"b.jpg": (50, 71), "a.png": (96, 64), "c.JPEG": (50, 71)}
    for name, hw in sizes.items():
        pixels = rng.integers(0, 256, (*hw, 3), dtype=np.uint8)
        kind = "PNG" if name.endswith("png") else "JPEG"
        Image.fromarray(pixels).save(folder / name, format=kind)
    run(finished_run.dir.root, folder, "--out", tmp_path / "masks")
    found = {path.name: mask_of(path).shape for path in (tmp_path / "masks").iterdir()}
    assert found == {"a.png": (96, 64), "b.png": (50, 71), "c.png": (50, 71)}


def test_masks_go_into_the_run_under_the_folders_name_by_default(
    copied_run: RunDir, test_frames: Path
) -> None:
    run(copied_run.root, test_frames)
    assert len(list((copied_run.root / "masks" / "image").iterdir())) == 5


def test_a_run_on_depth_needs_it_and_uses_it(
    rgbd_run: RunDir, test_frames: Path, tmp_path: Path
) -> None:
    run(rgbd_run.root, test_frames, "--out", tmp_path / "seen")  # finds ../depth by itself
    missing = tmp_path / "missing"
    missing.mkdir()
    for path in test_frames.iterdir():
        Image.fromarray(np.zeros((48, 64), np.uint16)).save(missing / path.name)
    run(rgbd_run.root, test_frames, "--depth", missing, "--out", tmp_path / "blind")
    seen, blind = (
        np.stack([mask_of(path) for path in sorted((tmp_path / name).iterdir())])
        for name in ("seen", "blind")
    )
    assert (seen != blind).any()

    (missing / "003.png").unlink()
    with pytest.raises(DatasetError, match=r"003\.png"):
        run(rgbd_run.root, test_frames, "--depth", missing, "--out", tmp_path / "none")
    alone = tmp_path / "alone" / "image"
    shutil.copytree(test_frames, alone)
    needed = "sees depth, and there are no depth maps at .*; name their folder: --depth FOLDER"
    with pytest.raises(ConfigError, match=needed):
        run(rgbd_run.root, alone, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_run_on_colour_ignores_depth(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    run(finished_run.dir.root, test_frames, "--depth", tmp_path / "x", "--out", tmp_path / "masks")
    assert len(list((tmp_path / "masks").iterdir())) == 5


def test_every_bad_image_is_named_before_any_mask_is_written(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "image"
    shutil.copytree(test_frames, folder)
    (folder / "001.png").write_bytes(b"")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        run(finished_run.dir.root, folder, "--out", tmp_path / "masks")
    assert "001.png" in str(caught.value)
    assert "notes.txt" not in str(caught.value)  # Only what was found; other files are passed over.
    assert not (tmp_path / "masks").exists()


def test_a_folder_that_is_no_finished_run_is_refused(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is not a run folder: it has no config.toml"):
        run(tmp_path, test_frames)
    shutil.copy(finished_run.dir.config, tmp_path)
    with pytest.raises(
        ConfigError, match=r"it has no temperature.json; complete it: python -m engine\.train --out"
    ):
        run(tmp_path, test_frames)


def test_one_image_is_predicted_with_the_depth_map_beside_its_folder(
    rgbd_run: RunDir, test_frames: Path, tmp_path: Path
) -> None:
    run(rgbd_run.root, test_frames, "--out", tmp_path / "all")
    one = test_frames / "003.png"
    run(rgbd_run.root, one, "--out", tmp_path / "one")
    named = test_frames.parent / "depth" / "003.png"
    run(rgbd_run.root, one, "--depth", named, "--out", tmp_path / "named")
    expected = (tmp_path / "all" / "003.png").read_bytes()
    for folder in ("one", "named"):
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["003.png"]
        assert (tmp_path / folder / "003.png").read_bytes() == expected
    shutil.copy(one, tmp_path / "alone.png")
    with pytest.raises(ConfigError, match="no depth maps at .*--depth FOLDER"):
        run(rgbd_run.root, tmp_path / "alone.png", "--out", tmp_path / "none")


def test_a_list_names_images_anywhere_and_equal_stems_get_their_folders_names(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    for folder, name in (("a", "x.png"), ("b", "x.png"), ("b", "y.png")):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(test_frames / "001.png", tmp_path / folder / name)
    listed = tmp_path / "some.txt"
    listed.write_text("a/x.png\nb/../b/x.png\n\n", encoding="utf-8")
    run(finished_run.dir.root, listed, "--out", tmp_path / "masks")
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a_x.png", "b_x.png"]
    listed.write_text(f"{tmp_path / 'b' / 'y.png'}\na/x.png\n", encoding="utf-8")
    run(finished_run.dir.root, listed, "--out", tmp_path / "more")
    assert sorted(path.name for path in (tmp_path / "more").iterdir()) == ["x.png", "y.png"]
    listed.write_text("a/x.png\na/gone.png\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"gone\.png: found no such file"):
        run(finished_run.dir.root, listed, "--out", tmp_path / "none")


def test_what_is_no_image_folder_or_list_is_refused(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    root, notes = finished_run.dir.root, tmp_path / "notes.md"
    notes.write_text("x", encoding="utf-8")
    needed = r"a folder of images, an image, a list of them \(.txt, a path a line\), or shards"
    with pytest.raises(ConfigError, match=f"is none of these; give {needed}"):
        run(root, notes)
    with pytest.raises(ConfigError, match=f"gone: no such folder or file; give {needed}"):
        run(root, tmp_path / "gone")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="lists no image; give a path a line"):
        run(root, tmp_path / "empty.txt")


@pytest.mark.parametrize(
    "arguments", [("{run}", "{absent}"), ("{absent}", "{run}"), ("{run}",), ("{run}", "--devise")]
)
def test_a_mistake_ends_with_exit_code_2_and_says_why(
    arguments: tuple[str, ...],
    finished_run: FinishedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [
        word.format(run=finished_run.dir.root, absent=tmp_path / "absent") for word in arguments
    ]
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: predict.main(filled))
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip() != ""


def test_a_mask_is_predicted_without_loading_what_takes_seconds(
    finished_run: FinishedRun, test_frames: Path, tmp_path: Path
) -> None:
    """The compiler of PyTorch alone takes 2 s."""
    arguments = [finished_run.dir.root, test_frames / "000.png", "--out", tmp_path / "masks"]
    program = (
        "import sys\nfrom engine import predict\nfrom engine.command import run_main\n"
        "try:\n    run_main(lambda: predict.main(sys.argv[1:]))\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "heavy = ('torch._dynamo', 'nvidia.dali', 'scipy.optimize', 'matplotlib')\n"
        "loaded = [name for name in heavy if name in sys.modules]\n"
        "assert not loaded, f'a prediction loaded {loaded}'\n"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = np.load(finished_run.dir.submission)[0]
    assert np.array_equal(mask_of(tmp_path / "masks" / "000.png"), expected)
