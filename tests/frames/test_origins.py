"""Datasets whose images are not plain: what is read, said, remembered and told apart."""

import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine import nyuv2
from engine.frames.cache import Layout, open_frames
from engine.frames.decode import read_image
from engine.frames.images import DECODERS
from engine.frames.index import CheckMemory, DatasetError, DatasetSpec
from engine.frames.reading import Reading
from tests.frames.small_dataset import PLENTY, SPEC, TEST, TRAIN, load

LEFT = DatasetSpec(nyuv2.CLASSES, nyuv2.SMALL_CLASSES, need_depth=True, reading=Reading(turn=False))
ON_ITS_SIDE = 6


def stored_on_its_side(path: Path) -> NDArray[np.uint8]:
    """Store a PNG turned, as a camera that was held upright does; what it shows."""
    exif = Image.Exif()
    exif[0x0112] = ON_ITS_SIDE
    with Image.open(path) as opened:
        shown = np.array(opened)
    Image.fromarray(shown).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return shown


def lines(caplog: pytest.LogCaptureFixture, root: Path) -> list[str]:
    return [line.removeprefix(f"{root}: ") for line in caplog.messages if str(root) in line]


def test_plain_data_has_the_fingerprint_and_the_cache_of_the_release_before(root: Path) -> None:
    dataset = load(root, None)
    assert load(root, None, LEFT).fingerprint == dataset.fingerprint
    total = hashlib.sha256()
    for path in sorted(root.glob("*/*/*"), key=lambda path: path.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix().encode()
        total.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    assert dataset.fingerprint == total.hexdigest()
    samples = dataset.train.samples
    kinds = "('image', 'depth', 'label')"
    key = hashlib.sha256(f"1 {DECODERS} {kinds}".encode())
    for sample in samples:
        files = (sample.image, sample.depth, sample.label)
        content = [hashlib.sha256(path.read_bytes()).digest() for path in files if path]
        key.update(hashlib.sha256(b"".join(content)).hexdigest().encode())
    assert Layout(samples).manifest.key == key.hexdigest()


def test_an_image_is_turned_upright_wherever_it_is_read(
    root: Path, tmp_path: Path, memory: CheckMemory, caplog: pytest.LogCaptureFixture
) -> None:
    plain = load(root, None)
    shown = stored_on_its_side(root / "train" / "image" / "2.png")
    assert memory.folder is not None
    keeping = CheckMemory(memory.folder, frame_bytes=PLENTY)
    with caplog.at_level(logging.INFO, logger="engine"):
        first, dataset = load(root, keeping), load(root, keeping)  # the second from memory
    told = "images turned upright by EXIF (data.exif): 1 of orientation 6"
    assert lines(caplog, root) == [told, told]
    assert first.train.samples == dataset.train.samples
    samples = dataset.train.samples
    assert samples[2].hw == shown.shape[:2] == plain.train.samples[2].hw
    np.testing.assert_array_equal(read_image(samples[2]), shown)
    assert dataset.fingerprint != plain.fingerprint
    # As the check kept them, and as they are decoded for the cache.
    for folder in (memory.folder, tmp_path / "other"):
        frames = open_frames(samples, folder, 1, 0)
        start = int(frames.offset_N[2])
        found = frames.image_P3[start : start + shown[..., 0].size].numpy()
        np.testing.assert_array_equal(found.reshape(shown.shape), shown)


def test_turned_and_left_are_other_data_to_checks_caches_and_runs(
    root: Path, memory: CheckMemory, caplog: pytest.LogCaptureFixture
) -> None:
    file = root / "train" / "image" / "2.png"
    with Image.open(file) as opened:
        exif, stored = Image.Exif(), np.array(opened)
    exif[0x0112] = 3  # upside down: it has the size of its maps either way
    Image.fromarray(stored).save(file, exif=exif)
    turned = load(root, memory)
    with caplog.at_level(logging.INFO, logger="engine"):
        left = load(root, memory, LEFT)
    told = ["1 images with an EXIF orientation, which data.exif = 'ignore' passes over"]
    assert lines(caplog, root) == told
    np.testing.assert_array_equal(read_image(left.train.samples[2]), stored)
    np.testing.assert_array_equal(read_image(turned.train.samples[2]), stored[::-1, ::-1])
    assert turned.fingerprint != left.fingerprint
    keys = {Layout(dataset.train.samples).place(Path()) for dataset in (turned, left)}
    assert len(keys) == 2


def test_an_image_whose_stored_size_alone_fits_is_refused_with_both_sizes(root: Path) -> None:
    file = root / "train" / "image" / "2.png"
    exif = Image.Exif()
    exif[0x0112] = ON_ITS_SIDE
    with Image.open(file) as opened:
        opened.save(file, exif=exif)
    with pytest.raises(DatasetError) as caught:
        load(root, None)
    assert str(caught.value.faults[0]) == (
        "train/image/2.png: found 22 x 30 pixels once turned upright (EXIF orientation 6), "
        "30 x 22 as stored; expected 30 x 22, the size of train/depth/2.png and "
        "train/label/2.png; data.exif = 'ignore' leaves images as stored"
    )
    assert len(caught.value.faults) == 1
    assert load(root, None, LEFT).train.samples[2].hw == (22, 30)


def to_grey(path: Path) -> None:
    with Image.open(path) as opened:
        opened.convert("L").save(path)


def to_tiff(path: Path) -> None:
    with Image.open(path) as opened:
        opened.convert("RGBA").save(path.with_suffix(".TIF"))
    path.unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (to_grey, ["images made 8-bit RGB: 1 8-bit grey PNG"]),
        (to_tiff, ["images made 8-bit RGB: 1 8-bit RGBA TIFF; alpha is dropped"]),
    ],
)
def test_a_converted_image_is_told_and_is_other_data_than_its_bytes_alone(
    root: Path, change: Callable[[Path], None], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    change(root / "train" / "image" / "2.png")
    with caplog.at_level(logging.INFO, logger="engine"):
        dataset = load(root, None)
    assert lines(caplog, root) == told
    (file,) = (root / "train" / "image").glob("2.*")
    (digest,) = (digest for name, digest in dataset.train.reports[2].digests if "image" in name)
    assert digest != hashlib.sha256(file.read_bytes()).hexdigest()
    assert len({sample.hw for sample in dataset.train.samples}) == TRAIN


def test_files_of_systems_are_skipped_without_a_word(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load(root, None)
    for kind in ("image", "depth", "label"):
        for name in (".DS_Store", "._2.png", "Thumbs.db", "desktop.ini", "~$x.png"):
            (root / "train" / kind / name).write_bytes(b"x")
        (root / "train" / kind / "@eaDir").mkdir()
    with caplog.at_level(logging.INFO, logger="engine"):
        assert load(root, None).fingerprint == before.fingerprint
    assert lines(caplog, root) == []


def test_test_frames_may_have_labels_which_make_no_other_data(
    root: Path, memory: CheckMemory, caplog: pytest.LogCaptureFixture
) -> None:
    before = load(root, memory)
    folder = root / "test" / "label"
    folder.mkdir()
    shutil.copy(root / "train" / "label" / "0.png", folder / "nobody.png")
    label = np.zeros((20 + TRAIN, 30), np.uint8)
    Image.fromarray(label).save(folder / f"{TRAIN}.png")
    with caplog.at_level(logging.INFO, logger="engine"):
        dataset = load(root, memory)
    found = [sample.label for sample in dataset.test.samples]
    assert found == [folder / f"{TRAIN}.png", *[None] * (TEST - 1)]
    assert dataset.fingerprint == before.fingerprint
    assert lines(caplog, folder) == [
        "1 others skipped: nobody.png",
        "labels of 1 of 2 test frames; the submission will be scored on them",
    ]
    label[3, 3] = 99
    Image.fromarray(label).save(folder / f"{TRAIN}.png")
    with pytest.raises(DatasetError, match=r"test/label/5.png: found label 99 in 1 pixels"):
        load(root, memory)


@pytest.mark.parametrize("spec", [SPEC, LEFT])
def test_a_damaged_image_is_named_whatever_is_turned(root: Path, spec: DatasetSpec) -> None:
    file = root / "train" / "image" / "2.png"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"train/image/2\.png: found a broken or truncated PNG"):
        load(root, None, spec)
