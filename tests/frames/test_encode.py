"""A copy that decodes faster: the same pixels, names and fingerprint, whole or not at all."""

import io
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine.config import DataConfig
from engine.data.folds import make_folds
from engine.frames import encode, race
from engine.frames.cache import open_frames
from engine.frames.decode import read_frame
from engine.frames.encode import Group, encode_dataset
from engine.frames.index import Dataset, DatasetError
from engine.frames.race import fastest, seconds_each
from engine.frames.recode import FORMS, Form, rewritten
from engine.full_disk import DiskFullError
from tests.frames.small_dataset import PLENTY, SPEC, load, spec_of

ROOT = Path(__file__).resolve().parents[2]
HW = (20, 30)
PALETTE = [int(value) for value in np.random.default_rng(1).integers(0, 256, 768)]

Disk = namedtuple("Disk", "total used free")  # as shutil has it


def save(pixels: NDArray[np.generic], path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if options.pop("indexed", False):
        image.putpalette(PALETTE)
    image.save(path, **options)


@pytest.fixture
def data(tmp_path: Path, later: None) -> Path:
    """Frames of every sort of file: turned ones, palettes, 16 bits, few bits, other formats."""
    rng = np.random.default_rng(0)
    root, exif, turned = tmp_path / "data", Image.Exif(), HW[::-1]
    exif[0x112] = 6
    colours = rng.integers(0, 256, (9, *HW, 4), np.uint8)
    rgb = colours[..., :3]
    images: list[tuple[str, NDArray[np.generic], dict[str, Any]]] = [
        ("0.png", rgb[0], {}),
        ("1.png", rng.integers(0, 256, (*turned, 3), np.uint8), {"exif": exif}),
        ("2.jpg", rgb[2], {"quality": 90}),
        ("3.png", rgb[3, ..., 0], {"transparency": 7}),
        ("4.png", colours[4], {}),
        ("5.png", rgb[5, ..., 0], {"indexed": True}),
        ("6.tif", rgb[6], {}),
        ("7.png", rgb[7], {}),
        ("8.png", rgb[8], {}),
    ]
    for number, (name, pixels, options) in enumerate(images):
        split = root / ("train" if number < 7 else "test")
        save(pixels, split / "image" / name, **options)
        stem, depth = Path(name).stem, rng.integers(0, 65536, HW, np.uint16)
        label = rng.integers(0, 13, HW, np.uint8)
        label[rng.random(HW) < 0.1] = 255
        save(depth, split / "depth" / f"{stem}.{'tif' if number == 3 else 'png'}")
        if number == 1:
            save(label % 13, split / "label" / "1.png", indexed=True, bits=4)
        elif number != 8:  # a test frame without a label
            deep = label.astype(np.uint16) if number == 4 else label
            save(deep, split / "label" / f"{stem}.png", indexed=number == 2)
    with (root / "train" / "image" / "0.png").open("ab") as stream:
        stream.write(b"more")  # passed over behind an image, and told
    (root / "scenes.csv").write_text("stem,scene\n0,a\n1,a\n2,b\n", encoding="utf-8")
    (root / "notes.txt").write_text("no part of it", encoding="utf-8")
    return root


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[[Form | None], None]:
    """Lets every sort of files be given one form, whatever it takes to decode."""

    def give(form: Form | None) -> None:
        monkeypatch.setattr(race, "_ROUNDS", 1)
        monkeypatch.setattr(race, "fastest", lambda seconds, sizes: form)

    return give


def files_of(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def chunks(content: bytes) -> list[bytes]:
    """Of a PNG, without what the data chunks hold, and with what stands behind it."""
    place, found = 8, list[bytes]()
    while place + 12 <= len(content) and (not found or found[-1][4:8] != b"IEND"):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        chunk, place = content[place:end], end
        if chunk[4:8] != b"IDAT":
            found.append(chunk)
        elif found[-1] != b"IDAT":
            found.append(b"IDAT")
    return [*found, content[place:]]


def assert_same(a: Dataset, b: Dataset) -> None:
    assert a.fingerprint == b.fingerprint
    for one, other in ((a.train, b.train), (a.test, b.test)):
        assert one.reports == other.reports
        for first, second in zip(one.samples, other.samples, strict=True):
            assert (first.stem, first.scene, first.digest) == (
                second.stem,
                second.scene,
                second.digest,
            )
            assert first.image.name == second.image.name
            for pixels, others in zip(read_frame(first), read_frame(second), strict=True):
                np.testing.assert_array_equal(pixels, others)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_copy_has_the_pixels_names_and_fingerprint_of_its_original(
    form: Form, data: Path, tmp_path: Path, choose: Callable[[Form | None], None]
) -> None:
    choose(form)
    out = tmp_path / "new" / "copy"
    told: list[tuple[int, int]] = []
    outcomes = encode_dataset(data, out, workers=2, progress=lambda *each: told.append(each))
    assert told == [(number + 1, 9) for number in range(9)]
    before, after = files_of(data), files_of(out)
    assert before.keys() - after.keys() == {"notes.txt"}
    assert after.keys() - before.keys() == {"encoded.json", ".encoded.json.sum"}
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    # Those that are neither JPEG nor TIFF, nor of four bits.
    assert changed == {name for name in before if name.endswith(".png")} - {"train/label/1.png"}
    assert all(chunks(before[name]) == chunks(after[name]) for name in changed)
    assert sum(one.files for one in outcomes) == len(before) - 2
    assert {one.form for one in outcomes} == {None, form}
    both = load(data, None), load(out, None)
    assert_same(*both)
    # Another meaning of the values, and images as they are stored.
    table = {str(value): value % 3 for value in range(13)} | {"255": "ignore"}
    config = DataConfig.model_validate(
        {"label_map": table, "depth_invalid": [0, 5], "exif": "turn", "classes": ["a", "b", "c"]}
        | {"small_classes": []}
    )
    assert_same(*(load(root, None, spec_of(config)) for root in (data, out)))
    # Whatever is kept decoded of the one serves the other.
    folder = tmp_path / "kept"
    for each in both:
        open_frames(each.train.samples, folder, 1, PLENTY)
    assert len([*folder.glob("frames-*")]) == 1
    folds = [make_folds(each.train.samples, "blocked", 2, 0, 1).fold_of for each in both]
    assert folds[0].tolist() == folds[1].tolist()


def test_an_image_that_is_not_turned_has_the_digest_of_its_original_too(
    data: Path, tmp_path: Path, choose: Callable[[Form | None], None]
) -> None:
    choose(FORMS[0])
    for kind, dtype in (("depth", np.uint16), ("label", np.uint8)):
        save(np.ones(HW[::-1], dtype), data / "train" / kind / "1.png")
    encode_dataset(data, tmp_path / "copy", workers=1)
    spec = replace(SPEC, reading=replace(SPEC.reading, turn=False))
    assert_same(*(load(root, None, spec) for root in (data, tmp_path / "copy")))


def test_a_copy_of_a_copy_is_one_of_the_original_and_a_changed_file_is_another(
    data: Path, tmp_path: Path, choose: Callable[[Form | None], None]
) -> None:
    fingerprint = load(data, None).fingerprint
    root = data
    for number, form in enumerate((FORMS[0], FORMS[1], None)):
        choose(form)
        out = tmp_path / str(number)
        encode_dataset(root, out, workers=1)
        assert load(out, None).fingerprint == fingerprint
        root = out
    path = root / "train" / "label" / "0.png"
    with Image.open(path) as opened:
        pixels = np.array(opened)
    pixels[0, 0] = (pixels[0, 0] + 1) % 13
    save(pixels, path)
    assert load(root, None).fingerprint != fingerprint


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_frame_of_one_pixel_and_one_of_a_prime_width_are_rewritten(form: Form) -> None:
    rng = np.random.default_rng(0)
    for hw in ((1, 1), (3, 7), (1, 31), (31, 1)):
        for shape, dtype in (((), np.uint8), ((), np.uint16), ((3,), np.uint8), ((4,), np.uint8)):
            pixels = rng.integers(0, np.iinfo(dtype).max, (*hw, *shape), dtype)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            new = rewritten(stream.getvalue(), form)
            assert new is not None
            with Image.open(io.BytesIO(new)) as opened:
                np.testing.assert_array_equal(np.array(opened), pixels)


def test_what_is_interlaced_or_no_png_is_left_as_it_is(data: Path) -> None:
    content = (data / "test" / "image" / "7.png").read_bytes()
    assert rewritten(content, FORMS[0]) is not None
    assert rewritten(content[:28] + b"\1" + content[29:], FORMS[0]) is None
    assert rewritten((data / "train" / "image" / "2.jpg").read_bytes(), FORMS[0]) is None


def test_pixels_that_would_change_are_copied_as_they_are_and_told(
    data: Path,
    tmp_path: Path,
    choose: Callable[[Form | None], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    choose(FORMS[1])

    def spoilt(content: bytes, form: Form) -> bytes | None:
        new = rewritten(content, form)
        if new is None or content != spoilt_file:
            return new
        with Image.open(io.BytesIO(new)) as opened:
            pixels = np.array(opened)
        pixels.flat[-1] ^= 1
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()

    spoilt_file = (data / "train" / "depth" / "0.png").read_bytes()
    monkeypatch.setattr(encode, "rewritten", spoilt)
    with caplog.at_level("INFO", "engine"):
        outcomes = encode_dataset(data, tmp_path / "copy", workers=1)
    assert (tmp_path / "copy" / "train" / "depth" / "0.png").read_bytes() == spoilt_file
    assert "depth/0.png: copied as it is; with no filter, level 9 it would" in caplog.text
    (depth,) = [one for one in outcomes if one.group == ("depth", "16-bit grey PNG")]
    assert (depth.files, depth.kept) == (8, 1)
    assert_same(load(data, None), load(tmp_path / "copy", None))


def test_of_the_fastest_forms_the_smallest_is_taken_and_none_where_little_is_gained() -> None:
    stored, plain, up = FORMS
    seconds: dict[Form | None, float] = {None: 2.0, stored: 1.0, plain: 1.04, up: 1.2}
    sizes: dict[Form | None, float] = {None: 10, stored: 100, plain: 20, up: 5}
    assert fastest(seconds, sizes) == plain
    assert fastest(seconds | {plain: 1.1}, sizes) == stored
    assert fastest(seconds | {None: 1.03}, sizes) is None
    # 300 MB that have to come from somewhere.
    assert fastest(seconds | {plain: 1.1}, sizes | {stored: 3e8}) == plain


def test_works_are_timed_in_turns_and_the_first_turn_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, order = 0.0, ""
    times = {"a": iter([9.0, 1, 1, 5, 1, 1, 1, 1]), "b": iter([9.0, 2, 2, 2, 0, 2, 2, 2])}

    def work(name: str) -> None:
        nonlocal now_s, order
        now_s += next(times[name])
        order += name

    monkeypatch.setattr("time.thread_time", lambda: now_s)
    assert seconds_each([lambda: work("a"), lambda: work("b")]) == [1, 2]
    assert order == "ab" * 8


def test_a_form_that_needs_no_room_is_chosen_where_there_is_little_and_none_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[Form]] = []

    def quickest(kind: str, contents: object, forms: list[Form], room: Path) -> race.Choice:
        tried.append([*forms])
        return race.Choice(forms[0], 100 if forms[0] == FORMS[0] else 1)

    size = sum(len(content) for name, content in files_of(data).items() if "/" in name)
    monkeypatch.setattr(encode, "choose_form", quickest)
    free = (1 << 30) + 2 * size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(free, 0, free))
    outcomes = encode_dataset(data, tmp_path / "copy", workers=1)
    assert {one.form for one in outcomes} == {None, FORMS[1]}
    assert {tuple(forms) for forms in tried} == {FORMS, FORMS[1:]}
    free = 1 << 30
    with pytest.raises(DiskFullError, match="1.0 GiB are free for a copy that takes 0.0 GiB, and"):
        encode_dataset(data, tmp_path / "other", workers=1)
    assert not (tmp_path / "other").exists()


def test_a_broken_file_is_named_and_nothing_appears(
    data: Path, tmp_path: Path, choose: Callable[[Form | None], None]
) -> None:
    choose(FORMS[1])
    path = data / "test" / "depth" / "8.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="test/depth/8.png: found a .*truncated PNG"):
        encode_dataset(data, tmp_path / "new" / "copy", workers=2)
    assert not (tmp_path / "new").exists()


KILLED = """
import os, sys
from pathlib import Path
from engine.frames import encode, race
race.fastest = lambda seconds, sizes: encode.FORMS[1]
write, left = encode.rewritten, [12]
def rewritten(content, form):
    left[0] -= 1
    return write(content, form) if left[0] else os._exit(9)
encode.rewritten = rewritten
encode.encode_dataset(Path(sys.argv[1]), Path(sys.argv[2]), workers=1)
"""


def test_a_copy_that_was_killed_or_stopped_is_begun_anew(
    data: Path,
    tmp_path: Path,
    choose: Callable[[Form | None], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "copies" / "copy"
    killed = [sys.executable, "-c", KILLED, str(data), str(out)]
    assert subprocess.run(killed, cwd=ROOT, check=False).returncode == 9
    (left,) = out.parent.rglob("copy.tmp")
    assert any(left.rglob("*.png"))
    choose(FORMS[1])

    def stop(content: bytes, form: Form) -> bytes | None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encode, "rewritten", stop)
        with pytest.raises(KeyboardInterrupt):
            encode_dataset(data, out, workers=1)
    assert not out.exists()
    encode_dataset(data, out, workers=1)
    assert [path.name for path in out.parent.iterdir()] == ["copy"]
    assert_same(load(data, None), load(out, None))


def test_files_that_come_while_it_is_copied_are_told(
    data: Path,
    tmp_path: Path,
    choose: Callable[[Form | None], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(None)

    def later_file(done: int, total: int) -> None:
        for kind in ("image", "depth"):
            path = data / "test" / kind / "8.png"
            shutil.copy(path, path.with_name("9.png"))

    with pytest.raises(RuntimeError, match="data changed while it was copied; run the command"):
        encode_dataset(data, tmp_path / "copy", workers=1, progress=later_file)
    assert not (tmp_path / "copy").exists()


def test_what_was_copied_is_timed_once_and_takes_what_it_took(
    data: Path, tmp_path: Path, choose: Callable[[Form | None], None]
) -> None:
    choose(None)
    outcomes = encode_dataset(data, tmp_path / "copy", workers=1)
    assert all(one.seconds_before == one.seconds_after > 0 for one in outcomes)
    assert all(one.bytes_before == one.bytes_after for one in outcomes)
    assert all((one.form, one.kept) == (None, 0) for one in outcomes)
    assert Group("image", "JPEG") in [one.group for one in outcomes]
