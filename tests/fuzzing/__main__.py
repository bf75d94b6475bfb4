"""python -m tests.fuzzing: bend one thing after another; the whole of what CI does in part."""

import argparse
import collections
import os
import tempfile
import traceback
from pathlib import Path

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
    from tests.fuzzing.judge import try_case
    from tests.fuzzing.world import make_world

    world = make_world(folder / "world")
    numbers = [options.only] if options.only is not None else range(options.first, options.count)
    outcomes: collections.Counter[str] = collections.Counter()
    for number in numbers:
        try:
            case = try_case(world, options.seed, number, folder / "case")
            fault, told, outcome = case.fault, case.bend.told, case.outcome
        except Exception:
            fault, told, outcome = traceback.format_exc(), "", "traceback"
        outcomes["FAULT" if fault else outcome] += 1
        if fault:
            print(f"{number}: {told}\n    {fault.strip()}", flush=True)
    print(dict(outcomes), folder)
    return int(outcomes["FAULT"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
