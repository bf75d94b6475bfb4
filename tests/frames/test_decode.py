import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine.frames import decode, images
from engine.frames.decode import Sample, read_ahead, read_frame
from engine.frames.kinds import KINDS, FileKind, UnfitError

HW = (6, 9)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def written(folder: Path, name: str, pixels: NDArray[np.generic]) -> Path:
    path = folder / name
    Image.fromarray(pixels).save(path)
    return path


def sample_of(image: Path, depth: Path | None = None, label: Path | None = None) -> Sample:
    return Sample("frame", image, depth, label, HW, None)


def test_a_frame_is_what_its_files_hold(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    depth = rng.integers(0, 65536, HW, dtype=np.uint16)
    depth[0, :2] = 0, 65535
    label = rng.integers(0, 256, HW, dtype=np.uint8)
    sample = sample_of(
        written(tmp_path, "image.png", image),
        written(tmp_path, "depth.png", depth),
        written(tmp_path, "label.png", label),
    )
    frame = read_frame(sample)
    assert frame.depth_HW is not None
    assert frame.label_HW is not None
    np.testing.assert_array_equal(frame.image_HW3, image)
    np.testing.assert_array_equal(frame.depth_HW, depth)
    assert frame.depth_HW.dtype == np.uint16
    np.testing.assert_array_equal(frame.label_HW, label)


def test_an_indexed_label_keeps_its_indices(tmp_path: Path, rng: np.random.Generator) -> None:
    label = rng.integers(0, 13, HW, dtype=np.uint8)
    indexed = Image.fromarray(label)
    indexed.putpalette([int(v) for v in rng.integers(0, 256, 768)])
    assert indexed.mode == "P"
    indexed.save(tmp_path / "label.png")
    image = written(tmp_path, "image.png", np.zeros((*HW, 3), np.uint8))
    frame = read_frame(sample_of(image, label=tmp_path / "label.png"))
    assert frame.label_HW is not None
    np.testing.assert_array_equal(frame.label_HW, label)


@pytest.mark.parametrize("byte_order", "<>")
def test_depth_may_be_a_16_bit_tiff(
    tmp_path: Path, rng: np.random.Generator, byte_order: str
) -> None:
    depth = rng.integers(0, 65536, HW, dtype=np.uint16)
    image = written(tmp_path, "image.png", np.zeros((*HW, 3), np.uint8))
    file = written(tmp_path, "depth.tif", depth.astype(f"{byte_order}u2"))
    found = read_frame(sample_of(image, file)).depth_HW
    assert found is not None
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, depth)
    Image.fromarray(depth.astype(np.float32)).save(file)
    with pytest.raises(RuntimeError, match="found a 32-bit float grey TIFF; expected a 16-bit"):
        read_frame(sample_of(image, file))


def test_an_image_that_no_check_found_to_turn_is_read_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # orientation: rotate by a quarter
    image = tmp_path / "image.jpg"
    Image.fromarray(np.zeros((*HW, 3), np.uint8)).save(image, exif=exif)
    assert read_frame(sample_of(image)).image_HW3.shape == (*HW, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 2, "progressive": True},
        {"quality": 100, "optimize": True},
        {"keep_rgb": True},
    ],
)
def test_a_jpeg_is_decoded_as_pillow_decodes_it(
    tmp_path: Path, rng: np.random.Generator, options: dict[str, Any]
) -> None:
    smooth = np.cumsum(rng.integers(-9, 10, (*HW, 3)), axis=1) + 128
    image = Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
    image.save(tmp_path / "image.jpg", **options)
    with Image.open(tmp_path / "image.jpg") as opened:
        expected = np.array(opened)
    found = read_frame(sample_of(tmp_path / "image.jpg")).image_HW3
    np.testing.assert_array_equal(found, expected)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "image.png").mkdir()
    with pytest.raises(RuntimeError, match=r"image\.png: found a file that cannot be read"):
        read_frame(sample_of(tmp_path / "image.png"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_frame(sample_of(tmp_path / "gone.png"))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system does not read ahead")
def test_reading_ahead_leaves_a_missing_file_to_its_reader_and_keeps_none_open(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = written(tmp_path, "image.png", rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
    opened: list[int] = []
    monkeypatch.setattr("os.posix_fadvise", lambda descriptor, *_: opened.append(descriptor))
    read_ahead(sample_of(tmp_path / "gone.png", image, image))
    assert len(opened) == 2
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("content", ["cut", "text", "empty"])
def test_a_file_that_cannot_be_decoded_is_named(
    tmp_path: Path, rng: np.random.Generator, content: str, suffix: str
) -> None:
    image = written(tmp_path, f"bad.{suffix}", rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
    whole = image.read_bytes()
    image.write_bytes({"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[content])
    found = {"cut": "a broken or truncated", "text": "a file of another kind", "empty": "an empty"}
    with pytest.raises(RuntimeError, match=rf"bad\.{suffix}: found {found[content]} .*; restore"):
        read_frame(sample_of(image))


def test_a_wrong_kind_or_size_of_file_is_named_with_what_was_needed(tmp_path: Path) -> None:
    grey = written(tmp_path, "grey.png", np.zeros(HW, np.uint8))
    small = written(tmp_path, "small.png", np.zeros((3, 3, 3), np.uint8))
    image = written(tmp_path, "image.png", np.zeros((*HW, 3), np.uint8))
    for sample, message in (
        (sample_of(small), r"small\.png: found 3 x 3 pixels; expected .* of 9 x 6 pixels"),
        (sample_of(image, depth=grey), r"grey\.png: found an 8-bit grey PNG; expected a 16-bit"),
        (sample_of(image, label=image), r"image\.png: found an 8-bit RGB PNG; expected a grey"),
    ):
        with pytest.raises(RuntimeError, match=message):
            read_frame(sample)


def verdict(content: bytes, kind: FileKind) -> bytes | str:
    try:
        if kind is KINDS["image"]:
            return images.decode_image(content, turn=True)[0].tobytes()
        return decode.decode(content, kind).tobytes()
    except UnfitError as error:
        return re.sub("0x[0-9a-f]+", "", str(error))  # Pillow names an object by its address


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "grey", "deep", "indexed"])
def test_of_damaged_files_the_quick_decoders_judge_as_pillow_does(
    kind: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = np.cumsum(rng.integers(-9, 10, (24, 32, 3)), axis=1) + 128
    stream, image = io.BytesIO(), Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
    if kind in ("jpeg", "progressive"):
        image.save(stream, "JPEG", progressive=kind == "progressive")
    elif kind == "deep":
        Image.fromarray((smooth[..., 0] * 99).clip(0, 65535).astype(np.uint16)).save(stream, "PNG")
    else:
        (image.quantize(99) if kind == "indexed" else image.convert("L")).save(stream, "PNG")
    whole, needed = stream.getvalue(), {"deep": KINDS["depth"], "jpeg": KINDS["image"]}
    expected = needed.get(kind, KINDS["image"] if kind == "progressive" else KINDS["label"])
    damaged = [whole, *(whole[: rng.integers(len(whole))] for _ in range(30)), whole + b"more"]
    for place in rng.integers(0, len(whole), 150):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))
    quick = [verdict(content, expected) for content in damaged]
    assert isinstance(quick[0], bytes)
    monkeypatch.setattr(decode, "decode_png", lambda content: None)
    monkeypatch.setattr(images, "_decode_jpeg", lambda content, size: None)
    assert [verdict(content, expected) for content in damaged] == quick
