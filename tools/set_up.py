"""Make or complete an environment; the Makefile calls it.

    python tools/set_up.py [FOLDER [REQUIREMENT...]]

FOLDER is `.venv` unless another is named, for releases held down by the requirements.
It runs before anything is installed, so it uses the standard library only. Whatever moment it is
killed at, the next call ends with a complete environment and installs only what is missing.
"""

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_GB = 8
"""Of disk that a new environment takes: PyTorch and what it brings for a GPU, and DALI."""


def main(arguments: Sequence[str] = ()) -> None:
    """Bring an environment up to what pyproject.toml and the command line ask for; stamp it."""
    started = time.monotonic()
    name, *requirements = arguments or [".venv"]
    environment = ROOT / name
    unfinished, ready = environment / ".unfinished", environment / ".ready"
    if unfinished.exists():
        for site_packages in environment.glob("lib/python3*/site-packages"):
            for package in forget_torn_packages(site_packages):
                print(f"set-up: {package} was cut short, installing it again", flush=True)
    python = environment / "bin" / "python"
    if not _works(python):
        shutil.rmtree(environment, ignore_errors=True)
        free = shutil.disk_usage(ROOT).free / 1e9
        if free < _GB:
            sys.exit(
                f"set-up: {name} needs {_GB} GB of disk, {ROOT} has {free:.1f} GB free; make room, "
                "or clone to another disk"
            )
        print(f"set-up: making {name} ({_GB} GB, a few minutes)", flush=True)
        environment.mkdir()
        unfinished.touch()
        # Not the interpreter of an active environment, which may vanish: the one beneath it.
        base = getattr(sys, "_base_executable", None) or sys.executable
        _run(base, "-m", "venv", str(environment))
    unfinished.touch()
    # Python compiles what it imports, a fraction of all; pip would compile everything, on one core.
    _run(
        *(str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"),
        "--no-compile",
        *("--editable", f"{ROOT}[test]", *requirements),
    )
    ready.touch()
    unfinished.unlink()
    print(f"set-up: {name} is ready after {time.monotonic() - started:.0f} s", flush=True)


def forget_torn_packages(site_packages: Path) -> list[str]:
    """Make pip install again what a killed pip left half installed or half removed.

    Pip takes a package for installed once its metadata folder is there. That folder is removed from
    every package whose files are not all there at their recorded sizes; pip then overwrites the
    rest. Folders that pip had set aside ("~name") are removed as well.

    Returns:
        The names of the metadata folders that were removed.
    """
    for set_aside in site_packages.glob("~*"):
        shutil.rmtree(set_aside, ignore_errors=True)
    records = {info: _record(info) for info in sorted(site_packages.glob("*.dist-info"))}
    # Packages may share a file (nvidia/__init__.py) and differ about it: the last one has won.
    sizes: dict[str, set[int]] = {}
    for record in records.values():
        for name, size in record.items():
            sizes.setdefault(name, set()).add(size)
    torn = [
        info
        for info, record in records.items()
        # Pip rewrites RECORD last of all and lists INSTALLER, which no wheel's own RECORD does.
        if f"{info.name}/INSTALLER" not in record
        or any(_size(site_packages / name) not in sizes[name] for name in record)
    ]
    for info in torn:
        shutil.rmtree(info)
    return [info.name for info in torn]


def _record(info: Path) -> dict[str, int]:
    """The files that a package says it has, with their sizes; bytecode is listed without one."""
    record = info / "RECORD"
    if not record.exists():
        return {}
    with record.open(newline="", encoding="utf-8") as stream:
        return {row[0]: int(row[2]) for row in csv.reader(stream) if len(row) == 3 and row[2]}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _works(python: Path) -> bool:
    """Whether this is an environment's interpreter, recent enough and with pip."""
    code = "import sys, pip; sys.exit(sys.prefix == sys.base_prefix or sys.version_info < (3, 11))"
    if not python.exists():
        return False
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def _run(*command: str) -> None:
    # Settings that send packages elsewhere would leave the environment empty.
    elsewhere = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"}
    settings = {name: value for name, value in os.environ.items() if name not in elsewhere}
    if status := subprocess.run(command, cwd=ROOT, env=settings, check=False).returncode:
        sys.exit(f"set-up: failed with status {status}: {' '.join(command)}")


if __name__ == "__main__":
    main(sys.argv[1:])
