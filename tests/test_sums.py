"""Checksums beside files: what they find, what they forgive, and what a kill leaves."""

import io
import os
import random
import threading
import time
from pathlib import Path

import pytest
from deflate import crc32

from engine import sums
from engine.damage import DamageError
from engine.sums import BLOCK_BYTES, Sums, check, expect, read, remove, sum_file, sums_of
from engine.whole import write_summed, write_text
from tests.stopping import StoppedError, stop_at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "note.txt"


def flip(path: Path, offset: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def test_every_flipped_bit_is_found_and_named(path: Path) -> None:
    write_summed(path, "0123456789")
    for offset in range(10):
        for bit in range(8):
            flip(path, offset, bit)
            told = r"note\.txt is damaged: bytes 0 to 9 are not those that were written"
            with pytest.raises(DamageError, match=told):
                read(path)
            with pytest.raises(DamageError, match=told):
                check(path)
            flip(path, offset, bit)
    assert read(path) == b"0123456789"


def test_the_message_names_the_block(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(2 * BLOCK_BYTES + 7))
    expect(path, sums_of(path))
    assert check(path)
    for offset, block in ((5, 0), (BLOCK_BYTES, 1), (2 * BLOCK_BYTES + 6, 2)):
        flip(path, offset)
        with pytest.raises(DamageError, match=f": bytes {block * BLOCK_BYTES} to "):
            check(path)
        flip(path, offset)


@pytest.mark.parametrize("size", [0, 9, 11])
def test_another_size_is_damage(size: int, path: Path) -> None:
    write_summed(path, "0123456789")
    os.truncate(path, size)
    with pytest.raises(DamageError, match=f"it has {size} bytes, 10 were written"):
        check(path)


def test_a_longer_file_may_be_read_where_its_reader_says_so(path: Path) -> None:
    write_summed(path, "ab\n")
    path.write_bytes(b"ab\nc")
    assert read(path, longer=True) == b"ab\nc"
    path.write_bytes(b"aB\nc")
    with pytest.raises(DamageError):
        read(path, longer=True)


def test_of_a_file_that_grew_its_beginning_vouches_for_nothing(path: Path) -> None:
    write_summed(path, "one\n")
    write_summed(path, "one\ntwo\n")
    path.write_bytes(b"one\ntwO\n")
    with pytest.raises(DamageError):
        read(path, longer=True)


@pytest.mark.parametrize("content", [b"", b"x"])
def test_an_empty_file_has_checksums_too(content: bytes, path: Path) -> None:
    write_summed(path, "")
    assert check(path)
    path.write_bytes(content)
    if content:
        with pytest.raises(DamageError, match="it has 1 bytes, 0 were written"):
            check(path)


def test_of_damaged_checksums_the_sum_file_is_named_and_not_the_sound_one(path: Path) -> None:
    write_summed(path, "sound")
    for offset in range(sum_file(path).stat().st_size):
        flip(sum_file(path), offset)
        with pytest.raises(DamageError, match=r"/\.note\.txt\.sum is damaged.*note\.txt is then"):
            read(path)
        flip(sum_file(path), offset)
    flip(sum_file(path), 3)
    write_summed(path, "written again")
    assert read(path) == b"written again"


def test_a_file_without_checksums_is_read_as_it_is(path: Path) -> None:
    write_text(path, "of an earlier release")
    assert read(path) == b"of an earlier release"
    assert not check(path)
    with pytest.raises(FileNotFoundError):
        check(path.with_name("absent"))


@pytest.mark.parametrize("moment", ["write", "renamed"])
@pytest.mark.parametrize("name", ["note.txt", ".note.txt.sum"])
@pytest.mark.parametrize("before", ["summed", "plain", "nothing", "longer"])
def test_killed_at_any_moment_the_file_is_sound(
    before: str, name: str, moment: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"summed": "old", "plain": "old", "nothing": "", "longer": "longer than the new one"}
    if before != "nothing":
        (write_text if before == "plain" else write_summed)(path, old[before])
    sound = {old[before]}
    for new in ("one", "two", "three"):  # and so for one that was killed again and again
        sound.add(new)
        with monkeypatch.context() as patch:
            stop_at(f"{moment} {name} 1", patch)
            with pytest.raises(StoppedError):
                write_summed(path, new)
        assert not path.exists() or read(path).decode() in sound
    write_summed(path, "newer")
    assert check(path)
    write_summed(path, "newest")
    assert check(path)
    assert sum_file(path).read_text("ascii").count("size") == 2, "of what stands and what stood"


def test_what_the_user_put_in_its_place_is_not_what_was_written(path: Path) -> None:
    write_summed(path, "ours")
    path.write_text("his", encoding="utf-8")
    with pytest.raises(DamageError):
        read(path)
    remove(path)
    assert not sum_file(path).exists()
    path.write_text("his", encoding="utf-8")
    assert read(path) == b"his"


def test_blocks_may_be_items_behind_a_header(path: Path) -> None:
    path.write_bytes(b"HEADaaabbbccc")
    told = Sums(13, 4, 3, tuple(crc32(part) for part in (b"HEAD", b"aaa", b"bbb", b"ccc")))
    expect(path, told)
    assert check(path)
    path.write_bytes(b"HEADaaabXbccc")
    with pytest.raises(DamageError, match=": bytes 7 to 9 "):
        check(path)


def test_a_file_is_checked_once_while_nobody_writes_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_summed(path, "old")
    read_by = []
    fault = Sums.fault

    def counted(self: Sums, stream: io.RawIOBase | io.BufferedIOBase) -> str | None:
        read_by.append(self)
        return fault(self, stream)

    monkeypatch.setattr(Sums, "fault", counted)
    check(path)
    check(path)
    assert len(read_by) == 2, "just written: another write might not show in its time"
    past = path.stat().st_mtime_ns - sums.SETTLED_NS
    monkeypatch.setattr(time, "time_ns", lambda: past + 3 * sums.SETTLED_NS)
    check(path)
    check(path)
    assert len(read_by) == 3
    flip(path, 0)
    with pytest.raises(DamageError):
        check(path)


def test_a_reader_beside_a_writer_sees_no_damage(path: Path) -> None:
    write_summed(path, "0")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write_summed(path, str(number) * 1000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            read(path)
    finally:
        stop.set()
        writer.join()
