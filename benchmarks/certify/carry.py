"""What must be taken to a bare machine without a network, in pieces that can be carried.

The machine has PyTorch 2.11 with its Triton, and `THERE`; what else this project needs is fetched
as wheels for its Python, in the releases that are installed here.
"""

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.command import check_ready
from benchmarks.figures import say

PIECE_BYTES = 60 << 20
"""At most this much a piece: what a transfer to a borrowed machine was seen to take."""

THERE = ("torch", "torchvision", "timm", "numba", "scipy", "rich", "pytest", "hypothesis", "pillow")
"""What the machine has, with all that these need in their turn."""

_RIVALS = (
    *("albumentations", "opencv-python-headless", "scikit-learn", "torchmetrics"),
    "segmentation-models-pytorch",
)
"""What the sections that compare need."""

_DALI = "nvidia-dali-cuda130"
_INSTALL = Path(__file__).with_name("install.py")
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(34, 4, -1)]
_PLATFORMS += [f"manylinux{name}_x86_64" for name in ("2014", "2010", "1")]
"""By any of these a wheel may say that it runs on Linux."""


def carry(folder: Path, python: str) -> None:
    """Fetch the wheels for a Python such as "3.12" and write them as pieces, with `install.py`.

    Raises:
        ConfigError: the extra "bench" is not installed, whose releases are taken.
        RuntimeError: pip cannot fetch them; its own words stand above.
    """
    check_ready("albumentations", "cv2", "segmentation_models_pytorch", "sklearn", "torchmetrics")
    folder.mkdir(parents=True, exist_ok=True)
    for name, distributions in bundles().items():
        with tempfile.TemporaryDirectory() as wheels:
            _fetch(distributions, python, Path(wheels))
            pieces = cut(name, sorted(Path(wheels).iterdir()), folder, PIECE_BYTES)
        say(f"{name}: {len(distributions)} packages in {len(pieces)} pieces")
    shutil.copy(_INSTALL, folder)
    say(f"take {folder} there, whole or piece by piece: python install.py FOLDER")


def bundles() -> dict[str, list[str]]:
    """By bundle "name==version" of what is not `THERE`; each is of use without those after it."""
    needed = [one for one in importlib.metadata.requires("roomsmith") or [] if "extra" not in one]
    engine = {_plain(one) for one in needed} - {_DALI}
    taken, found = closure(THERE), {}
    for name, asked in (("engine", engine), ("rivals", _RIVALS), ("dali", [_DALI])):
        new = closure(asked) - taken
        taken |= new
        found[name] = [f"{one}=={importlib.metadata.version(one)}" for one in sorted(new)]
    return found


def closure(names: Iterable[str]) -> set[str]:
    """The distributions and all that they need, as far as they are installed here."""
    found, waiting = set[str](), [_plain(name) for name in names]
    while waiting:
        name = waiting.pop()
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # Of another system, or of an extra that nobody asked for.
        if name not in found:
            found.add(name)
            waiting += [_plain(one) for one in needed if "extra ==" not in one]
    return found


def cut(name: str, files: Iterable[Path], folder: Path, most_bytes: int) -> list[Path]:
    """Write files as one archive in pieces NAME.tar.00, ..., and their checksums in NAME.sha256."""
    for old in folder.glob(f"{name}.tar.*"):
        old.unlink()
    pieces: list[Path] = []
    with tempfile.TemporaryFile() as stream:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for file in files:
                archive.add(file, file.name)
        stream.seek(0)
        while part := stream.read(most_bytes):
            pieces.append(folder / f"{name}.tar.{len(pieces):02d}")
            pieces[-1].write_bytes(part)
    sums = [f"{hashlib.sha256(piece.read_bytes()).hexdigest()}  {piece.name}\n" for piece in pieces]
    (folder / f"{name}.sha256").write_text("".join(sums), "ascii")
    return pieces


def _plain(requirement: str) -> str:
    """The name in a requirement, as indexes spell it."""
    name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _fetch(distributions: list[str], python: str, wheels: Path) -> None:
    asked = ["--no-deps", "--only-binary", ":all:", "--python-version", python]
    asked += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--dest", str(wheels), *asked]
    code = subprocess.run([*command, *distributions], check=False).returncode
    if code:
        raise RuntimeError(f"pip download ended with exit code {code}; see what it said above")
