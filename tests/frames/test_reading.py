"""Labels of any depth are read as the values that they hold, and mapped wherever they are read."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.config import DataConfig
from engine.frames.cache import open_frames
from engine.frames.decode import read_frame, read_label
from engine.frames.index import Dataset, DatasetError, load_dataset
from tests.frames.small_dataset import spec_of

HW = (20, 30)
CLASSES = ("a", "b", "c", "d")


def png(values_HW: NDArray[Any], bits: int, *, indexed: bool) -> bytes:
    """A PNG of one channel, written from the standard, as Pillow cannot write all of them."""
    height, width = values_HW.shape
    if bits == 16:
        rows = values_HW.astype(">u2").tobytes()
        lines = [rows[y * 2 * width :][: 2 * width] for y in range(height)]
    else:
        shifts = np.arange(bits)[::-1]
        spread_HWb = (values_HW[..., None].astype(np.uint8) >> shifts) & 1
        lines = [np.packbits(line).tobytes() for line in spread_HWb.reshape(height, -1)]
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    head = struct.pack(">IIBBBBB", width, height, bits, 3 if indexed else 0, 0, 0, 0)
    palette = [(b"PLTE", bytes(range(3 * 2 ** min(bits, 4))))] if indexed else []
    parts = [(b"IHDR", head), *palette, (b"IDAT", data), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def write(root: Path, labels: list[bytes]) -> None:
    rng = np.random.default_rng(0)
    for number, content in enumerate(labels):
        for kind in ("image", "label"):
            (root / "train" / kind).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*HW, 3), np.uint8)
        Image.fromarray(pixels).save(root / "train" / "image" / f"{number}.png")
        (root / "train" / "label" / f"{number}.png").write_bytes(content)


def load(root: Path, **data: Any) -> Dataset:
    config = DataConfig.model_validate({"classes": CLASSES, **data})
    return load_dataset(root, spec_of(config), workers=1)


def drawn(high: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, high, HW)


@pytest.mark.parametrize(
    ("bits", "indexed"),
    [*((bits, indexed) for bits in (1, 2, 4, 8) for indexed in (True, False)), (16, False)],
)
def test_a_label_of_any_depth_is_the_values_that_it_holds(
    bits: int, indexed: bool, tmp_path: Path
) -> None:
    values = drawn(min(2**bits, 14))
    write(tmp_path, [png(values, bits, indexed=indexed)])
    names = tuple(f"c{index}" for index in range(14))
    dataset = load(tmp_path, classes=names)
    (sample,) = dataset.train.samples
    label = read_label(sample)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, values)
    counts = np.bincount(values.ravel(), minlength=14)
    assert dataset.train.reports[0].class_pixels == counts.tolist()


def test_a_16_bit_label_says_which_of_its_values_are_no_classes(tmp_path: Path) -> None:
    values = drawn(4)
    values[0, :3], values[1, 0] = 1000, 255
    write(tmp_path, [png(values, 16, indexed=False)])
    with pytest.raises(DatasetError, match=r"label 1000 in 3 pixels; expected 0\.\.3 or 255"):
        load(tmp_path)
    table = {"0": 0, "1": 1, "2": 2, "3": 3, "1000": "ignore"}
    report = load(tmp_path, label_map=table).train.reports[0]
    assert report.ignored_pixels == 4


def mapped(values: NDArray[Any]) -> NDArray[Any]:
    """What TABLE makes of values 0..5, of which 0 and 5 are unlabelled."""
    found: NDArray[Any] = np.array([255, 3, 2, 1, 0, 255])[values]
    return found


TABLE = {"label_map": {"1": "d", "2": 2, "3": "b", "4": 0}, "ignore": [0, 5]}


def test_a_map_gives_what_a_folder_with_the_mapped_pixels_gives(tmp_path: Path) -> None:
    values = [drawn(6), drawn(5)[::-1]]
    write(tmp_path / "raw", [png(each, 4, indexed=True) for each in values])
    write(tmp_path / "clean", [png(mapped(each), 8, indexed=False) for each in values])
    raw, clean = load(tmp_path / "raw", **TABLE), load(tmp_path / "clean")
    kept = "class_pixels", "ignored_pixels", "small_pixels"
    for ours, theirs in zip(raw.train.reports, clean.train.reports, strict=True):
        assert [getattr(ours, name) for name in kept] == [getattr(theirs, name) for name in kept]
    for one, two in zip(raw.train.samples, clean.train.samples, strict=True):
        np.testing.assert_array_equal(read_frame(one).label_HW, read_frame(two).label_HW)
    ours_P, theirs_P = (
        open_frames(each.train.samples, tmp_path / "cache", 1, 1 << 20).label_P
        for each in (raw, clean)
    )
    assert ours_P is not None
    assert theirs_P is not None
    assert torch.equal(ours_P, theirs_P)
    assert raw.fingerprint != clean.fingerprint


def test_another_map_is_another_fingerprint_and_another_cache(tmp_path: Path) -> None:
    write(tmp_path, [png(drawn(4), 8, indexed=False)])
    plain, same = load(tmp_path), load(tmp_path, ignore=[255])
    swapped = load(tmp_path, label_map={"0": 1, "1": 0, "2": 2, "3": 3})
    ignoring = load(tmp_path, ignore=[9])
    assert plain.fingerprint == same.fingerprint
    assert len({plain.fingerprint, swapped.fingerprint, ignoring.fingerprint}) == 3
    digests = {each.train.samples[0].digest for each in (plain, same, swapped, ignoring)}
    assert len(digests) == 3


def test_values_that_the_map_lacks_are_named(tmp_path: Path) -> None:
    write(tmp_path, [png(drawn(7), 8, indexed=False)])
    with pytest.raises(DatasetError) as caught:
        load(tmp_path, **TABLE)
    assert "label 6 in " in str(caught.value)
    assert "expected a value that data.label_map or data.ignore names, or 255" in str(caught.value)


def test_stray_values_suggest_what_to_type_once(tmp_path: Path) -> None:
    values = drawn(5)
    write(tmp_path, [png(values, 8, indexed=False)] * 2 + [png(values % 3, 8, indexed=False)])
    with pytest.raises(DatasetError) as caught:
        load(tmp_path)
    *_, hint = str(caught.value).splitlines()
    typed = 'data.label_map = {"0" = "ignore", "1" = 0, "2" = 1, "3" = 2, "4" = 3} if 0 is unlab'
    assert hint.startswith(
        f"the labels hold 0, 1, 2, 3, 4 for 4 classes; if they are sound, type {typed}"
    )
    assert str(caught.value).count("data.label_map") == 1
    assert len(caught.value.faults) == 2


def test_a_value_above_a_byte_is_not_taken_for_a_class_by_the_hint(tmp_path: Path) -> None:
    values = np.array([1, 2, 3, 1000])[drawn(4)]
    write(tmp_path, [png(values, 16, indexed=False)])
    with pytest.raises(DatasetError) as caught:
        load(tmp_path)
    *_, hint = str(caught.value).splitlines()
    assert hint.startswith("the labels hold 1, 2, 3, 1000 for 4 classes; ")
    assert hint.endswith("type data.ignore = [1000] if that is unlabelled")


def test_classes_of_nyuv2_that_nobody_named_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, [png(drawn(20), 8, indexed=False)])
    with pytest.raises(DatasetError) as caught:
        load_dataset(tmp_path, spec_of(DataConfig()), workers=1)
    assert "data.classes is that of NYU Depth v2; " in str(caught.value)
    assert 'type data.classes = ["class0", "class1", ' in str(caught.value)


def test_a_label_that_changed_since_the_check_is_named(tmp_path: Path) -> None:
    write(tmp_path, [png(drawn(6), 8, indexed=False)])
    (sample,) = load(tmp_path, **TABLE).train.samples
    assert sample.label is not None
    sample.label.write_bytes(png(drawn(6) + 4, 8, indexed=False))
    with pytest.raises(RuntimeError, match=r"0\.png: found label 6, 7, 8, 9 in .*; restore the"):
        read_label(sample)
