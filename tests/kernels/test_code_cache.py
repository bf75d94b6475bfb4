"""Machine code is kept where it may be kept, and forgotten when its sources change."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kernels
from kernels.code_cache import forget_stale_code

CALL = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
logging.getLogger("numba").setLevel(logging.WARNING)
from kernels.compiling import COMPILING
from kernels.png.cpu import _paeth
assert _paeth(3, 5, 4) == 4
print("compiled" if COMPILING.seconds() else "found")
"""


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    """A copy of the kernels whose folders take no machine code, whoever asks."""
    copy = tmp_path / "installed" / "kernels"
    shutil.copytree(Path(kernels.__file__).parent, copy, ignore=shutil.ignore_patterns("__pyc*"))
    for folder in (copy, *(path for path in copy.iterdir() if path.is_dir())):
        (folder / "__pycache__").touch()
    return copy


def call(kernels: Path, cache: Path) -> list[str]:
    """What a process that calls a kernel of this folder says, line by line."""
    named = {"PYTHONPATH": str(kernels.parent), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        cwd=kernels.parent,
        env={**os.environ, **named, "NUMBA_CACHE_DIR": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_kernels_that_cannot_be_written_beside_are_kept_in_the_users_cache(
    read_only: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert call(read_only, cache) == ["compiling kernels (once per machine)", "compiled"]
    assert call(read_only, cache) == ["found"]
    # Numba itself looks at the file of the function that is called, and at no other.
    (read_only / "metrics.py").write_text("changed = True", encoding="utf-8")
    assert call(read_only, cache)[-1] == "compiled"
    assert len(list((cache / "roomsmith").glob("kernels-*"))) == 2


def test_where_nothing_can_be_written_kernels_are_compiled_all_the_same(
    read_only: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").touch()
    for _ in range(2):
        told, last = call(read_only, tmp_path / "cache")
        assert told.startswith(
            f"compiling kernels (at every start: neither {read_only} nor a cache"
        )
        assert last == "compiled"


def test_machine_code_of_changed_sources_is_forgotten_and_no_other(tmp_path: Path) -> None:
    for folder in ("changed", "untouched"):
        cached = tmp_path / folder / "__pycache__"
        cached.mkdir(parents=True)
        for path, age_s in (
            (tmp_path / folder / "cpu.py", 30),
            (tmp_path / folder / "cpu_rows.py", 0 if folder == "changed" else 30),
            (cached / "cpu.f-1.py311.nbi", 10),
            (cached / "cpu.f-1.py311.1.nbc", 20),
            (cached / "cpu.cpython-311.pyc", 20),
        ):
            path.touch()
            os.utime(path, (1_000_000_000 - age_s,) * 2)
    shared = tmp_path / "cpu.py"
    shared.touch()
    os.utime(shared, (1_000_000_000 - 30,) * 2)
    forget_stale_code(tmp_path)
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.nb?"))
    assert kept == [
        "untouched/__pycache__/cpu.f-1.py311.1.nbc",
        "untouched/__pycache__/cpu.f-1.py311.nbi",
    ]
    assert len(list(tmp_path.rglob("*.pyc"))) == 2


def test_machine_code_of_all_is_forgotten_when_what_they_share_changed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "one", tmp_path / "two"):
        cached = folder / "__pycache__"
        cached.mkdir(parents=True)
        for path, age_s in ((folder / "cpu.py", 30), (cached / "cpu.f-1.py311.nbi", 10)):
            path.touch()
            os.utime(path, (1_000_000_000 - age_s,) * 2)
    forget_stale_code(tmp_path)
    assert len(list(tmp_path.rglob("*.nbi"))) == 3
    os.utime(tmp_path / "cpu.py", (1_000_000_000,) * 2)
    forget_stale_code(tmp_path)
    assert list(tmp_path.rglob("*.nbi")) == []
