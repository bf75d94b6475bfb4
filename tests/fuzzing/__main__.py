"""python -m tests.fuzzing: bend one thing after another; the whole of what CI does in part."""

import argparse
import collections
import io
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this number alone; what it left is kept")
    parser.add_argument("--from", type=int, default=0, dest="first")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzzing-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "user-cache")
    from tests.fuzzing.judge import fault_of
    from tests.fuzzing.world import make_world, quicken

    quicken(pytest.MonkeyPatch())
    with redirect_stdout(io.StringIO()):
        world = make_world(folder / "world")
    numbers = [options.only] if options.only is not None else range(options.first, options.count)
    outcomes: collections.Counter[str] = collections.Counter()
    for number in numbers:
        fault, outcome = fault_of(world, options.seed, number, folder / "case")
        outcomes["FAULT" if fault else outcome] += 1
        if fault:
            sys.stdout.write(f"{number}: {fault}\n")
        if number % 100 == 99:
            sys.stdout.write(f"{number + 1} tried\n")
        sys.stdout.flush()
    sys.stdout.write(f"{dict(outcomes)}\n")
    if options.only is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        sys.stdout.write(f"kept: {folder}\n")
    return int(outcomes["FAULT"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
