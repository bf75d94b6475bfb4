"""What is carried arrives whole, in pieces, in any order of transfers; nothing is fetched here."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.certify.carry import bundles, closure, cut
from benchmarks.certify.install import main

_MOST = 4096
"""Bytes of a piece: a tar of the files below is three of them."""


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """The pieces of two bundles, of files that stand for wheels."""
    wheels, folder = tmp_path / "wheels", tmp_path / "carried"
    wheels.mkdir()
    folder.mkdir()
    for number, size in enumerate((10, 5000, 300)):
        (wheels / f"no_such_{number}-1.0-py3-none-any.whl").write_bytes(bytes([number]) * size)
    files = sorted(wheels.iterdir())
    assert len(cut("large", files[1:], folder, _MOST)) > 1
    cut("small", files[:1], folder, 1 << 20)
    return folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What pip is asked to install, by name."""
    asked: dict[str, bytes] = {}

    def run(command: list[str], *, check: bool) -> None:
        assert "--no-index" in command
        asked.update(
            {Path(file).name: Path(file).read_bytes() for file in command if ".whl" in file}
        )

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_no_piece_is_larger_than_it_may_be_and_each_has_its_checksum(carried: Path) -> None:
    lines = (carried / "large.sha256").read_text("ascii").splitlines()
    for line in lines:
        checksum, name = line.split()
        content = (carried / name).read_bytes()
        assert len(content) <= _MOST
        assert hashlib.sha256(content).hexdigest() == checksum
    assert {line.split()[1] for line in lines} == {
        file.name for file in carried.glob("large.tar.*")
    }


def test_fewer_pieces_leave_none_of_an_earlier_cut(carried: Path, tmp_path: Path) -> None:
    cut("large", sorted((tmp_path / "wheels").iterdir())[:1], carried, 1 << 20)
    assert [file.name for file in carried.glob("large.tar.*")] == ["large.tar.00"]


def test_what_was_cut_is_put_together_and_installed(
    carried: Path, installed: dict[str, bytes], tmp_path: Path
) -> None:
    assert main([str(tmp_path / "there")], carried) == 0
    wheels = {file.name: file.read_bytes() for file in (tmp_path / "wheels").iterdir()}
    assert installed == wheels


def test_pieces_may_come_one_by_one_and_a_torn_one_is_asked_for_again(
    carried: Path, installed: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = sorted(carried.glob("large.tar.*"))
    transfer = tmp_path / "transfer"
    transfer.mkdir()
    for file in (first, *carried.glob("*.sha256"), carried / "small.tar.00"):
        shutil.copy(file, transfer)
    (transfer / others[0].name).write_bytes(others[0].read_bytes()[:-1])
    target = [str(tmp_path / "there")]
    assert main(target, transfer) == 1
    missing = ", ".join(file.name for file in others)
    assert f"large: {missing} did not come yet, or not whole" in capsys.readouterr().out
    # What is whole is of use already.
    assert set(installed) == {"no_such_0-1.0-py3-none-any.whl"}
    for file in transfer.iterdir():
        file.unlink()
    for file in others:
        shutil.copy(file, transfer)
    assert main(target, transfer) == 0
    assert len(installed) == 3


def test_what_the_machine_has_stays_as_it_is(installed: dict[str, bytes], tmp_path: Path) -> None:
    wheels = [tmp_path / "numpy-1.0-py3-none-any.whl", tmp_path / "no_such-1.0-py3-none-any.whl"]
    for wheel in wheels:
        wheel.write_bytes(b"wheel")
    cut("engine", wheels, tmp_path, 1 << 20)
    assert main([str(tmp_path / "there")], tmp_path) == 0
    assert set(installed) == {"no_such-1.0-py3-none-any.whl"}


def test_what_is_carried_is_what_the_engine_needs_beside_pytorch_and_its_like() -> None:
    found = bundles()
    assert list(found) == ["engine", "rivals", "dali"]
    names = {bundle: {one.partition("==")[0] for one in each} for bundle, each in found.items()}
    assert {"pydantic", "pydantic-core", "pydantic-settings", "simplejpeg"} <= names["engine"]
    everything = set().union(*names.values())
    assert not everything & {"torch", "triton", "numpy", "numba", "roomsmith"}
    assert len(everything) == sum(map(len, names.values()))


def test_all_that_a_distribution_needs_is_found() -> None:
    found = closure(["pydantic-settings"])
    assert {"pydantic-settings", "pydantic", "pydantic-core", "typing-extensions"} <= found
    assert closure(["no-such-distribution"]) == set()
