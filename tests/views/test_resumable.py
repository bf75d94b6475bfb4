"""An array that grows on disk: what numpy reads of it, and what a stop leaves."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

from engine.damage import DamageError
from engine.full_disk import DiskFullError
from engine.views.resumable import ResumableArray

SHAPE = (5, 2, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "array.npy"


def test_numpy_reads_what_was_written_and_zero_where_nothing_was(path: Path) -> None:
    array = ResumableArray(path, SHAPE, np.uint8)
    assert not np.load(path).any(), "whole from the start"
    array.write(3, np.full((1, 2, 3), 7, np.uint8))
    array.write(0, np.arange(6, dtype=np.uint8).reshape(2, 3))
    array.sync()
    array.close()
    found = np.load(path)
    assert (found.shape, found.dtype) == (SHAPE, np.uint8)
    expected = np.zeros(SHAPE, np.uint8)
    expected[0], expected[3] = np.arange(6).reshape(2, 3), 7
    assert np.array_equal(found, expected)


def test_several_items_are_written_from_a_position_on(path: Path) -> None:
    array = ResumableArray(path, SHAPE, np.int16)
    items = np.arange(18, dtype=np.int16).reshape(3, 2, 3)
    array.write(2, items)
    array.close()
    assert np.array_equal(np.load(path), np.concatenate([np.zeros((2, 2, 3), np.int16), items]))


def test_a_file_that_exists_is_continued(path: Path) -> None:
    for index in range(SHAPE[0]):
        array = ResumableArray(path, SHAPE, np.float16)
        array.write(index, np.full(SHAPE[1:], index, np.float16))
        array.sync()
        array.close()
    assert np.load(path)[:, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_the_file_is_that_of_numpys_save(path: Path, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).random(SHAPE).astype(np.float16)
    array = ResumableArray(path, SHAPE, np.float16)
    for index in (4, 1, 0, 3, 2):
        array.write(index, numbers[index])
    array.close()
    np.save(tmp_path / "saved.npy", numbers)
    assert path.read_bytes() == (tmp_path / "saved.npy").read_bytes()


def test_what_the_system_writes_in_parts_is_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    array = ResumableArray(path, SHAPE, np.uint8)
    numbers = np.arange(30, dtype=np.uint8).reshape(SHAPE)
    array.write(0, numbers)
    array.close()
    assert np.array_equal(np.load(path), numbers)


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "fsync"])
def test_a_full_disk_is_named(call: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, call, full)
    told = rf"^{path.parent} is full \(Disk quota exceeded\): array\.npy needs 0\.2 KiB, "
    with pytest.raises(DiskFullError, match=told):
        ResumableArray(path, SHAPE, np.uint8).sync()


def test_the_checksums_are_those_of_what_was_written(path: Path) -> None:
    array = ResumableArray(path, SHAPE, np.uint8)
    array.write(1, np.full((3, 2, 3), 7, np.uint8))
    array.sync()
    noted = array.noted([2], array.noted([1]))
    array.close()
    again = ResumableArray(path, SHAPE, np.uint8)
    again.recall([1, 2], noted)
    found = again.finish()
    assert found.fault(io.BytesIO(path.read_bytes())) is None
    assert (found.size, found.block, len(found.crc32)) == (path.stat().st_size, 6, 6)
    content = bytearray(path.read_bytes())
    for item, is_noted in ((1, True), (2, True), (3, False)):
        content[found.first + 6 * item] ^= 1
        path.write_bytes(content)
        if is_noted:
            with pytest.raises(DamageError, match=rf"array\.npy is damaged: item {item} is not"):
                again.finish()
        else:
            assert again.finish().crc32[4] != found.crc32[4]
        content[found.first + 6 * item] ^= 1


def test_numbers_of_another_type_and_layout_are_converted(path: Path) -> None:
    numbers = np.random.default_rng(0).random((3, 2), dtype=np.float32).T
    array = ResumableArray(path, SHAPE, np.float16)
    array.write(1, numbers)
    array.close()
    found = np.load(path)
    assert found.dtype == np.float16
    assert np.array_equal(found[1], numbers.astype(np.float16))
