"""A dataset in shards is the plain one, whatever was killed meanwhile; damage is named."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.frames import pack
from engine.frames.dataset import SHARDS
from engine.frames.decode import read_frame
from engine.frames.index import CheckMemory, DatasetError
from engine.frames.pack import pack_dataset
from engine.mistakes import ConfigError
from tests.frames.small_dataset import TRAIN, load

SMALL = 4000
"""Bytes of a shard: two or three frames."""


@pytest.fixture
def packed(root: Path, tmp_path: Path) -> Path:
    pack_dataset(root, tmp_path / "shards", shard_bytes=SMALL)
    return tmp_path / "shards"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_its_frames_are_those_of_the_folder_bit_by_bit(
    root: Path, packed: Path, tmp_path: Path, memory: CheckMemory, read: list[str]
) -> None:
    shutil.copy(root / "train" / "image" / "1.jpg", root / "kept.jpg")
    plain, found = load(root, None), load(packed, memory)
    assert found.fingerprint == plain.fingerprint
    for one, other in ((found.train, plain.train), (found.test, plain.test)):
        assert len(one.samples) == len(other.samples)
        # In any order: by offset, not by reading on.
        for sample, same in list(zip(one.samples, other.samples, strict=True))[::-1]:
            assert (sample.stem, sample.hw, sample.digest) == (same.stem, same.hw, same.digest)
            for part, wanted in zip(read_frame(sample), read_frame(same), strict=True):
                np.testing.assert_array_equal(part, wanted)
        assert one.reports == other.reports
    read.clear()
    again = load(packed, memory)
    assert (again.fingerprint, read) == (plain.fingerprint, [])


def test_other_tools_read_the_shards_and_find_whole_frames_in_order(
    root: Path, packed: Path, tmp_path: Path
) -> None:
    shards = sorted(packed.glob("train-*.tar"))
    assert len(shards) > 1
    keys: list[str] = []
    for shard in shards:
        with tarfile.open(shard) as opened:
            members = opened.getmembers()
            for member in members:
                # https://github.com/webdataset/webdataset: a key ends at the first point.
                key, _, ending = member.name.rpartition("/")[2].partition(".")
                kind, _, suffix = ending.partition(".")
                keys += [key] if kind == "image" else []
                (original,) = (root / "train" / kind).glob(f"{key}.{suffix}")
                stream = opened.extractfile(member)
                assert stream is not None
                assert stream.read() == original.read_bytes()
        assert len(members) % 3 == 0
    assert keys == sorted(path.stem for path in (root / "train" / "image").iterdir())


def test_a_stem_with_points_is_one_key_and_keeps_its_name(root: Path, tmp_path: Path) -> None:
    for kind in ("image", "depth", "label"):
        (path,) = (root / "train" / kind).glob("3.*")
        path.rename(path.with_name(f"room.1%a.3{path.suffix}"))
    pack_dataset(root, tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "train-000000.tar") as opened:
        assert "train/room%2E1%25a%2E3.depth.png" in opened.getnames()
    assert load(tmp_path / "shards", None).fingerprint == load(root, None).fingerprint


def test_killed_at_any_shard_it_goes_on_to_the_same_bytes(
    root: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out, write = contents(packed), tmp_path / "again", pack._write
    written: list[str] = []

    def stop_at_the_second(stream: Any, *rest: Any) -> str:
        written.append(Path(stream.name).name.removesuffix(".tmp"))
        if len(written) in (2, 4):
            stream.write(b"torn")
            raise KeyboardInterrupt
        return write(stream, *rest)

    monkeypatch.setattr(pack, "_write", stop_at_the_second)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pack_dataset(root, out, shard_bytes=SMALL)
        with pytest.raises(DatasetError, match=r"shards\.json: found no such file beside shards"):
            load(out, None)
    pack_dataset(root, out, shard_bytes=SMALL)
    assert contents(out) == whole
    # Each shard once, but for those that it was killed at.
    assert len(written) == len(list(out.glob("*.tar"))) + 2
    pack_dataset(root, out, shard_bytes=SMALL)
    assert len(written) == len(list(out.glob("*.tar"))) + 2


def test_what_changed_since_is_packed_again(root: Path, packed: Path) -> None:
    (image,) = (root / "train" / "image").glob("2.*")
    image.write_bytes((root / "train" / "image" / "0.png").read_bytes())
    for kind in ("depth", "label"):
        shutil.copy(root / "train" / kind / "0.png", root / "train" / kind / "2.png")
    pack_dataset(root, packed, shard_bytes=SMALL)
    assert load(packed, None).fingerprint == load(root, None).fingerprint


@pytest.mark.parametrize("harm", ["cut", "lost", "manifest", "index", "frame"])
def test_damage_is_named_in_a_line(harm: str, packed: Path) -> None:
    shard = packed / "train-000001.tar"
    if harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-700])
        told = r"train-000001\.tar: found \d+ bytes; expected \d+ bytes: copy"
    elif harm == "lost":
        shard.unlink()
        told = r"train-000001\.tar: found no such file; expected"
    elif harm == "manifest":
        path = packed / SHARDS
        path.write_text(path.read_text("utf-8").replace('"train": 5', '"train": 4'), "utf-8")
        told = rf"{SHARDS}: found .*{SHARDS} is damaged"
    elif harm == "index":
        path = shard.with_suffix(".json")
        path.write_text(path.read_text("utf-8").replace("512", "513", 1), "utf-8")
        told = r"train-000001\.json is not that of shards\.json"
    else:
        content = bytearray(shard.read_bytes())
        place = content.index(b"IDAT") + 6
        content[place] ^= 1
        shard.write_bytes(content)
        told = r"train/\w+/\d\.png: found a damaged PNG"
    with pytest.raises(DatasetError, match=told) as caught:
        load(packed, None)
    assert len(caught.value.faults) == 1


def test_shards_go_into_a_folder_of_their_own_and_are_not_packed_again(
    root: Path, packed: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds something else"):
        pack_dataset(root, root)
    with pytest.raises(ConfigError, match="is in shards already"):
        pack_dataset(packed, tmp_path / "more")
    assert len(load(packed, None).train.samples) == TRAIN
