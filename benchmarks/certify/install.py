"""Put carried pieces together and install them: python install.py FOLDER, on a bare machine.

FOLDER lies outside the work tree and keeps the pieces that came so far: run it after each transfer.
What is whole is installed; what the machine has already stays as it is. Only the standard library.
"""

import argparse
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None, here: Path = Path(__file__).parent) -> int:
    """Take the pieces that lie in `here`; the exit code is 1 if a bundle still lacks one."""
    parser = argparse.ArgumentParser(prog="python install.py", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args(arguments).folder.resolve()
    kept = folder / "pieces"
    kept.mkdir(parents=True, exist_ok=True)
    for sums in sorted(here.glob("*.sha256")):
        shutil.copy(sums, kept)
    missing = []
    for sums in sorted(kept.glob("*.sha256")):
        pieces = dict(line.split()[::-1] for line in sums.read_text("ascii").splitlines())
        lacking = [
            name for name, checksum in pieces.items() if not _take(name, checksum, here, kept)
        ]
        if lacking:
            missing.append(f"{sums.stem}: {', '.join(lacking)} did not come yet, or not whole")
        else:
            _install(join([kept / name for name in pieces], folder / sums.stem), folder)
    print("\n".join(missing) or f"all is installed; export PYTHONPATH={folder / 'site'}")
    return 1 if missing else 0


def join(pieces: Sequence[Path], folder: Path) -> list[Path]:
    """Unpack the archive that was cut into pieces; the files in it."""
    whole = folder.with_suffix(".tar")
    with whole.open("wb") as stream:
        for piece in pieces:
            stream.write(piece.read_bytes())
    with tarfile.open(whole) as archive:
        # An attribute, as extractall knows no filter before Python 3.11.4: Debian 12 has 3.11.2.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    whole.unlink()
    return sorted(folder.iterdir())


def _take(name: str, checksum: str, here: Path, kept: Path) -> bool:
    """Whether a piece is kept whole now, copied there if it has just come."""
    for file in (kept / name, here / name):
        if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == checksum:
            if file.parent != kept:
                shutil.copy(file, kept)
            return True
    return False


def _install(wheels: Sequence[Path], folder: Path) -> None:
    new = [str(wheel) for wheel in wheels if not _is_there(wheel)]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade"]
    if new:
        subprocess.run([*command, "--target", str(folder / "site"), *new], check=True)


def _is_there(wheel: Path) -> bool:
    """Whether the machine has the distribution of a wheel, in whatever release."""
    name = re.split(r"-\d", wheel.name, maxsplit=1)[0]
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
