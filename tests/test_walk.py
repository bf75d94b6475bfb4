"""`docs/walk.md` names the files that one image passes, and functions that run in them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| `((?:engine|kernels)/[^`]+\.py)` \| ([^|]+) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def named() -> dict[str, list[str]]:
    """The functions that the walk names, by file, in its order."""
    rows = ROW.findall((ROOT / "docs" / "walk.md").read_text(encoding="utf-8"))
    return {file: re.findall(r"`([^`]+)`", functions) for file, functions in rows}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The functions that ran, by file: in a process of its own, where nothing is imported yet."""
    folder = tmp_path_factory.mktemp("walk")
    done = subprocess.run(
        [sys.executable, "-m", "tests.walk_trace", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout[done.stdout.rindex("\n{\n") :])
    return found


def test_the_walk_names_the_files_that_an_image_passes(
    named: dict[str, list[str]], ran: dict[str, list[str]]
) -> None:
    apart = ("engine/report/", "engine/rooms/")
    assert set(named) == {file for file in ran if not file.startswith(apart)}


def test_the_functions_that_the_walk_names_are_run(
    named: dict[str, list[str]], ran: dict[str, list[str]]
) -> None:
    assert all(named.values())
    idle = {f"{file}: {name}" for file in named for name in named[file] if name not in ran[file]}
    assert idle == set()
