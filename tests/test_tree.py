"""Facts about the tree itself."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import engine
import kernels

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("benchmarks", "engine", "kernels")
LONGEST_FILE = 400

# Folders of somebody's machine, told apart from a relative path by what stands before the slash.
MACHINE_PATH = re.compile(r"(?<![\w.)}*/-])/(?:home|root|Users|work|workspace|opt|mnt|data)/\w")

# Any of these costs a command a second or more before it answers.
HEAVY = ("torch", "timm", "numba", "scipy", "nvidia.dali", "matplotlib", "jinja2")

# One process for all: a new one for each takes longer than the help.
HELP_WITHOUT_HEAVY_MODULES = """
import io, runpy, sys
from contextlib import redirect_stdout
for command in sys.argv[1:]:
    sys.argv, said = [command, "--help"], io.StringIO()
    try:
        with redirect_stdout(said):
            runpy.run_module(command, run_name="__main__", alter_sys=False)
    except SystemExit as stop:
        assert stop.code in (0, None), (command, stop.code)
    loaded = [name for name in %r if name in sys.modules]
    assert not loaded, f"--help of {command} imported {loaded}"
    assert "usage" in said.getvalue().lower(), (command, said.getvalue())
    print(command)
"""


@functools.cache
def project_files() -> tuple[Path, ...]:
    """Every file that git tracks or would track; outside a repository, every file not hidden."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        made = {"data", "dist", "runs"}
        tops = [top for top in ROOT.iterdir() if top.name[0] != "." and top.name not in made]
        below = [path for top in tops for path in top.rglob("*") if "__pycache__" not in path.parts]
        paths = tops + below
    return tuple(sorted(path for path in paths if path.is_file()))


def commands() -> list[str]:
    modules = [path for top in PACKAGES for path in (ROOT / top).rglob("*.py")]
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in modules
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    )


def test_every_package_of_the_engine_opens_with_a_docstring_and_imports_nothing() -> None:
    for path in (ROOT / "engine").rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, f"{path.relative_to(ROOT)} holds more than a docstring"
        assert ast.get_docstring(ast.Module(body, [])), f"{path.relative_to(ROOT)} says nothing"


def test_kernels_and_engine_are_ours_and_not_packages_of_the_same_name() -> None:
    assert [Path(path) for path in kernels.__path__] == [ROOT / "kernels"]
    assert [Path(path) for path in engine.__path__] == [ROOT / "engine"]


def test_no_source_file_is_longer_than_400_lines() -> None:
    sources = [path for path in project_files() if path.suffix in (".py", ".toml", "")]
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources
        if path.name != "LICENSE"
    }
    assert lengths, "no source files found"
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in project_files()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("text", ["{}home/ann/x", '"{}work/y"', "see {}root/z"])
def test_a_machine_path_is_recognised(text: str) -> None:
    assert MACHINE_PATH.search(text.format("/"))


@pytest.mark.parametrize("text", ["../shared/data/nyuv2", "engine/frames/index.py", "{x}/work/y"])
def test_a_relative_path_is_no_machine_path(text: str) -> None:
    assert not MACHINE_PATH.search(text)


def test_no_test_folder_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_help_is_answered_without_importing_anything_heavy() -> None:
    program = HELP_WITHOUT_HEAVY_MODULES % (HEAVY,)
    result = subprocess.run(
        [sys.executable, "-c", program, *commands()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == commands()
