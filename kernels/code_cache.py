"""Where Numba keeps the machine code of the kernels, so that a machine compiles them once."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numba


def keep_code(kernels: Path) -> str:
    """Have the machine code of the kernels kept where it may be kept; how long, in words.

    Beside their sources, else in the user's cache folder, else for this process only: there Numba
    itself would refuse to compile. Call it before anything is decorated.

    Of another process, its NUMBA_CACHE_DIR the parent of `numba.config.CACHE_DIR`, if that is set,
    they are kept in the same place.

    Args:
        kernels: holds the sources that all operations share, and a folder of each one's own.
    """
    named = numba.config.CACHE_DIR  # type: ignore[attr-defined] # set when Numba starts
    folders = [path for path in kernels.iterdir() if (path / "__init__.py").exists()]
    if not named and all(_is_writable(path / "__pycache__") for path in (kernels, *folders)):
        forget_stale_code(kernels)
        return "once per machine"
    # A folder for each state of the sources: of another state Numba would not notice, see below.
    name = f"kernels-{_digest(kernels)}"
    for parent in [Path(named)] if named else _user_caches():
        if _is_writable(parent / name):
            numba.config.CACHE_DIR = str(parent / name)  # type: ignore[attr-defined]
            return "once per machine"
    scratch = tempfile.TemporaryDirectory(prefix="roomsmith-kernels-")
    _SCRATCH.append(scratch)
    numba.config.CACHE_DIR = str(Path(scratch.name) / name)  # type: ignore[attr-defined]
    return f"at every start: neither {kernels} nor a cache folder can be written"


_SCRATCH: list[tempfile.TemporaryDirectory[str]] = []
"""Folders that go when the process ends."""


def forget_stale_code(kernels: Path) -> None:
    """Remove the machine code that Numba cached of an operation whose sources changed since.

    Numba looks only at the file of the function that is called: after a change of one that it
    calls, from another file, it would run the old code (manual, "Notes on Caching", limitations).

    Args:
        kernels: holds the sources that all operations share, and a folder of each one's own.
    """
    shared = list(kernels.glob("*.py"))
    for folder in (kernels, *kernels.iterdir()):
        cached = list((folder / "__pycache__").glob("*.nb[ic]"))
        sources = (*shared, *folder.glob("*.py"))
        changed_s = max((path.stat().st_mtime for path in sources), default=0.0)
        if any(_modified_s(path) < changed_s for path in cached):
            for path in cached:
                path.unlink(missing_ok=True)


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process was here first
        return float("inf")


def _user_caches() -> list[Path]:
    """The user's cache folder, if there is one to be known."""
    # https://specifications.freedesktop.org/basedir-spec/latest/
    if Path(named := os.environ.get("XDG_CACHE_HOME", "")).is_absolute():
        return [Path(named) / "roomsmith"]
    with suppress(RuntimeError):  # no home
        return [Path.home() / ".cache" / "roomsmith"]
    return []


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _digest(kernels: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(kernels.rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(kernels).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()[:16]
