"""prepare nyuv2 on a file of full size: memory and time.

    python -m tests.bring.full_size DIR [FRAMES]

Writes DIR/labeled.mat with the structure of the official file, 1,449 frames of 480 x 640, noise
in one of 192, and prepares it into DIR/nyuv2.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.bring import official_file

ROOT = Path(__file__).resolve().parents[2]


def peak_mib(file: Path, frames: int, out: Path) -> tuple[float, float]:
    """Peak memory of a call in MiB, and its seconds."""
    splits = file.with_name(f"{out.name}-splits.mat")
    official_file.write_splits(splits, range(1, frames // 2), range(frames // 2, frames + 1))
    words = [sys.executable, "-m", "engine.prepare", "nyuv2", str(file)]
    words += ["--splits", str(splits), "--out", str(out)]
    start_s = time.monotonic()
    process = subprocess.Popen(words, cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{words} ended with {status}")
    return used.ru_maxrss / 1024, time.monotonic() - start_s


def main(folder: Path, frames: int = 1449) -> None:
    """Print what a call takes."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "labeled.mat"
    official_file.write(file, frames, (480, 640), chunk=16, written=range(0, frames, 12 * 16))
    peak, elapsed_s = peak_mib(file, frames, folder / "nyuv2")
    sys.stdout.write(f"{frames} frames: {peak:.0f} MiB at most, {elapsed_s:.0f} s\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
