"""A dataset folder is listed whole, or refused with every fault named at once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine import nyuv2
from engine.frames.index import Dataset, DatasetError, DatasetSpec, load_dataset

HW = (24, 32)
STEMS = [f"{number:06d}" for number in (1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13, 14)]


def save(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def image(seed: int, hw: tuple[int, int] = HW) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


def depth(seed: int, hw: tuple[int, int] = HW) -> NDArray[np.uint16]:
    millimetres = np.random.default_rng(seed).integers(1, 9000, hw, np.uint16)
    millimetres[0] = 0
    return millimetres


def label(seed: int, hw: tuple[int, int] = HW) -> NDArray[np.uint8]:
    classes = np.random.default_rng(seed).integers(0, 13, hw, np.uint8)
    classes[:, 0] = 255
    return classes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound dataset: JPEG and PNG images, grey and indexed labels, test frames, scenes."""
    for number, stem in enumerate(STEMS):
        suffix = ".jpg" if number % 2 else ".png"
        save(tmp_path / "train" / "image" / f"{stem}{suffix}", image(number))
        save(tmp_path / "train" / "depth" / f"{stem}.png", depth(number))
        save(tmp_path / "train" / "label" / f"{stem}.png", label(number))
    save(tmp_path / "test" / "image" / "000000.JPEG", image(99))
    save(tmp_path / "test" / "depth" / "000000.png", depth(99))
    lines = ["stem,scene", *(f"{stem},room{int(stem) // 4}" for stem in STEMS)]
    (tmp_path / "scenes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def load(root: Path, **options: Any) -> Dataset:
    spec = DatasetSpec(nyuv2.CLASSES, nyuv2.SMALL_CLASSES, options.pop("need_depth", True))
    return load_dataset(root, spec, **{"workers": 1} | options)


def faults(root: Path, **options: Any) -> dict[str, str]:
    with pytest.raises(DatasetError) as caught:
        load(root, **options)
    for fault in caught.value.faults:
        assert str(fault) in str(caught.value)
    return {fault.file: fault.found for fault in caught.value.faults}


def test_a_sound_dataset_is_listed_in_stem_order(root: Path) -> None:
    dataset = load(root)
    samples = dataset.train.samples
    assert [sample.stem for sample in samples] == STEMS
    assert all(sample.hw == HW for sample in samples)
    assert samples[1].image == root / "train" / "image" / "000002.jpg"
    assert samples[1].depth == root / "train" / "depth" / "000002.png"
    assert samples[1].label == root / "train" / "label" / "000002.png"
    assert samples[0].scene == "room0"
    assert samples[-1].scene == "room3"
    (test,) = dataset.test.samples
    assert (test.stem, test.label, test.scene) == ("000000", None, None)
    assert test.depth is not None
    assert dataset.test.small_pixels[0].shape == (0, 2)


def test_the_statistics_count_what_the_files_hold(root: Path) -> None:
    train = load(root).train
    for number in range(len(STEMS)):
        expected = [int((label(number) == index).sum()) for index in range(13)]
        report = train.reports[number]
        assert report.class_pixels == expected
        assert report.ignored_pixels == HW[0]
        assert report.missing_depth == pytest.approx(1 / HW[0])


def test_small_pixels_lie_on_small_classes_in_equal_quotas(root: Path) -> None:
    small = [nyuv2.CLASSES.index(name) for name in nyuv2.SMALL_CLASSES]
    plenty = np.full(HW, 0, np.uint8)
    plenty[:6], plenty[6:12] = small[0], small[1]
    plenty[12, :3] = small[2]
    save(root / "train" / "label" / f"{STEMS[0]}.png", plenty)
    save(root / "train" / "label" / f"{STEMS[1]}.png", np.full(HW, 11, np.uint8))
    pixels, none = load(root).train.small_pixels[:2]
    assert none.shape == (0, 2)
    assert pixels.dtype == np.int32
    found = plenty[pixels[:, 0], pixels[:, 1]]
    assert np.bincount(found, minlength=13)[small].tolist() == [51, 51, 3, 0, 0]
    assert len(np.unique(pixels, axis=0)) == len(pixels)
    # Evenly in raster order: the middle of the kept rows is the middle of the class.
    assert pixels[found == small[0], 0].mean() == pytest.approx(2.5, abs=0.1)


def test_an_indexed_label_counts_by_index_not_by_colour(root: Path) -> None:
    indexed = Image.fromarray(label(0))
    indexed.putpalette([7] * 768)
    assert indexed.mode == "P"
    indexed.save(root / "train" / "label" / f"{STEMS[0]}.png")
    train = load(root).train
    assert train.reports[0].class_pixels[3] == (label(0) == 3).sum()


def test_twelve_planted_faults_are_named_in_one_report(root: Path) -> None:
    train = root / "train"
    png = (train / "image" / "000001.png").read_bytes()
    (train / "image" / "000001.png").write_bytes(png[: len(png) // 2])
    (train / "image" / "000002.jpg").write_bytes(b"")
    (train / "image" / "000003.png").write_text("not a picture", encoding="utf-8")
    save(train / "image" / "000005.jpg", image(3, (24, 30)))
    metres = np.zeros(HW, np.float32)
    Image.fromarray(metres).save(train / "image" / "000006.png", format="TIFF")
    stray = label(5)
    stray[3, 4] = 13
    save(train / "label" / "000007.png", stray)
    save(train / "depth" / "000009.png", (depth(6) // 256).astype(np.uint8))
    (train / "depth" / "000010.png").unlink()
    (train / "label" / "000011.png").unlink()
    jpeg = (train / "image" / "000012.jpg").read_bytes()
    (train / "image" / "000012.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    shutil.copy(train / "image" / "000013.png", train / "image" / "000013.jpg")
    (root / "test" / "image" / "000000.JPEG").unlink()
    found = faults(root)
    planted = {
        "train/image/000001.png": "truncated",
        "train/image/000002.jpg": "0 bytes",
        "train/image/000003.png": "a file of another kind",
        "train/depth/000005.png": "32 x 24",
        "train/label/000005.png": "32 x 24",
        "train/image/000006.png": "32-bit float grey TIFF",
        "train/label/000007.png": "label 13 in 1 pixels",
        "train/depth/000009.png": "8-bit grey PNG",
        "train/depth/000010.png": "no such file",
        "train/label/000011.png": "no such file",
        "train/image/000012.jpg": "truncated JPEG",
        "train/image/000013.png": "second image",
        "test/image": "empty folder",
    }
    assert found.keys() == planted.keys()
    for file, words in planted.items():
        assert words in found[file]


def test_a_fault_does_not_hide_another_of_the_same_frame(root: Path) -> None:
    (root / "train" / "image" / "000001.png").write_bytes(b"")
    both = label(0, (20, 32))
    both[0, 0] = 77
    save(root / "train" / "label" / "000001.png", both)
    with pytest.raises(DatasetError) as caught:
        load(root)
    named = [(fault.file, fault.found) for fault in caught.value.faults]
    assert named == [
        ("train/image/000001.png", "an empty file (0 bytes)"),
        ("train/label/000001.png", "32 x 20 pixels"),
        ("train/label/000001.png", "label 77 in 1 pixels"),
    ]
    assert str(caught.value).startswith(f"3 faults in {root}:")


def png_of_mode(mode: str) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, HW[::-1]).save(path)


def without_end_marker(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def as_jpeg(path: Path) -> None:
    Image.fromarray(label(0)).save(path, format="JPEG")


@pytest.mark.parametrize(
    ("file", "spoil", "found"),
    [
        ("image/000001.png", without_end_marker, "no end marker"),
        ("image/000002.jpg", without_end_marker, "truncated"),
        ("label/000001.png", png_of_mode("LA"), "8-bit grey + alpha PNG"),
        ("label/000001.png", as_jpeg, "8-bit grey JPEG"),
    ],
)
def test_a_wrong_encoding_is_named(
    root: Path, file: str, spoil: Callable[[Path], None], found: str
) -> None:
    spoil(root / "train" / file)
    assert found in faults(root)[f"train/{file}"]


def test_a_folder_or_an_odd_file_among_the_images_is_named(root: Path) -> None:
    (root / "train" / "image" / "notes.txt").write_text("x", encoding="utf-8")
    (root / "train" / "image" / "more.png").mkdir()
    (root / "train" / "image" / ".DS_Store").write_text("x", encoding="utf-8")
    assert faults(root).keys() == {"train/image/notes.txt", "train/image/more.png"}


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize("leave_empty", [True, False])
def test_what_is_missing_or_empty_is_one_fault(root: Path, kind: str, leave_empty: bool) -> None:
    shutil.rmtree(root / "train" / kind)
    if leave_empty:
        (root / "train" / kind).mkdir()
    assert list(faults(root)) == [f"train/{kind}"]
    assert list(faults(root / "nowhere")) == [str(root / "nowhere")]


@pytest.mark.parametrize("name", ["scandir", "access"])  # without the right to read, to enter
def test_a_folder_that_may_not_be_read_is_no_empty_one(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Injected, because a superuser may read everything.
    look, closed = getattr(os, name), root / "train" / "depth"

    def refuse(path: Path, *mode: int) -> Any:
        if path == closed and name == "access":
            return False
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, *mode)

    monkeypatch.setattr(os, name, refuse)
    with pytest.raises(DatasetError) as caught:
        load(root)
    assert [str(fault) for fault in caught.value.faults] == [
        "train/depth: found a folder that cannot be read (Permission denied); expected a folder "
        "of .png or .tif or .tiff files; give yourself the right to read and enter it"
    ]


def test_depth_may_be_absent_unless_it_is_needed(root: Path) -> None:
    shutil.rmtree(root / "train" / "depth")
    assert list(faults(root)) == ["train/depth"]
    dataset = load(root, need_depth=False)
    assert all(sample.depth is None for sample in dataset.train.samples)
    assert {report.missing_depth for report in dataset.train.reports} == {None}


def test_depth_that_is_there_must_be_complete_even_if_not_needed(root: Path) -> None:
    (root / "train" / "depth" / "000005.png").unlink()
    assert list(faults(root, need_depth=False)) == ["train/depth/000005.png"]


def test_a_dataset_without_test_frames_is_sound(root: Path) -> None:
    shutil.rmtree(root / "test")
    assert load(root).test.samples == ()


def test_labels_without_a_single_class_are_refused(root: Path) -> None:
    for stem in STEMS:
        save(root / "train" / "label" / f"{stem}.png", np.full(HW, 255, np.uint8))
    assert faults(root) == {"train/label": "no labelled pixel at all"}


@pytest.mark.parametrize(
    ("content", "file"),
    [
        ("frame,room\n000001,a\n", "scenes.csv"),
        ("", "scenes.csv"),
        ("stem,scene\n000001\n", "scenes.csv line 2"),
        ("stem,scene\n000001,a\n000001,b\n", "scenes.csv line 3"),
    ],
)
def test_a_malformed_scene_list_is_named(root: Path, content: str, file: str) -> None:
    (root / "scenes.csv").write_text(content, encoding="utf-8")
    assert list(faults(root)) == [file]


def test_what_is_no_file_is_no_table_of_scenes(root: Path) -> None:
    table = root / "scenes.csv"
    kinds: list[Callable[[], None]] = [
        lambda: table.symlink_to("nowhere"),
        lambda: os.mkfifo(table),
        table.mkdir,
    ]
    for make in kinds:
        table.unlink()
        make()
        with pytest.raises(DatasetError, match=r"scenes\.csv: found no file, or a link to none"):
            load(root)


def test_the_fingerprint_follows_names_and_contents_only(root: Path, tmp_path: Path) -> None:
    before = load(root).fingerprint
    assert load(root, workers=3).fingerprint == before
    copy = tmp_path.parent / f"{tmp_path.name}-copy"
    shutil.copytree(root, copy)
    assert load(copy).fingerprint == before
    save(copy / "train" / "label" / "000001.png", label(1234))
    assert load(copy).fingerprint != before
    (root / "scenes.csv").unlink()
    assert load(root).fingerprint != before


def test_progress_counts_every_frame(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    load(root, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 13) for done in range(1, 14)]


def test_a_twelfth_of_the_real_data_passes(nyuv2_root: Path, tmp_path: Path) -> None:
    for kind in ("train/image", "train/depth", "train/label", "test/image", "test/depth"):
        (tmp_path / kind).mkdir(parents=True)
        for path in sorted((nyuv2_root / kind).iterdir())[::12]:
            (tmp_path / kind / path.name).symlink_to(path)
    dataset = load(tmp_path, workers=2)
    assert (len(dataset.train.samples), len(dataset.test.samples)) == (67, 55)
    assert {sample.hw for sample in dataset.train.samples} == {(480, 640)}
    labelled = sum(sum(report.class_pixels) for report in dataset.train.reports)
    # The whole data set has 17.6 % unlabelled pixels.
    assert 1 - labelled / (67 * 480 * 640) == pytest.approx(0.176, abs=0.03)
    assert all(0 <= len(pixels) <= 255 for pixels in dataset.train.small_pixels)
