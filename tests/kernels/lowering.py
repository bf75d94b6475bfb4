"""Lowers Triton kernels to machine code for GPUs that need not be here, and says what came out.

    python -m tests.kernels.lowering [--all] FOLDER...    (from the root, without TRITON_INTERPRET)

prints one JSON list: for each kernel that `kernels/FOLDER/launch.py` launches, at each of its
specialisations and architecture, its registers, the bytes spilled from them, shared memory, global
accesses, and its instructions, loop by loop (`benchmarks/sass.py` says what is counted). Without
--all, of each kernel its first specialisation for MAIN, and of each folder's first kernel that for
the oldest architecture, whose shared memory is the least: a seventh of all.
`specialisations.py` beside this file lists all that decides the machine code.
"""

import itertools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from typing import Any

import triton  # noqa: F401  so that forked workers need not import it

from benchmarks.lowering import lower
from tests.kernels.specialisations import specialisations

ARCHITECTURES = (80, 90, 100)
MAIN = 90
"""That of the H100."""
OLDEST = ARCHITECTURES[0]


def main(folders: list[str], *, everything: bool) -> None:
    """Lower the specialisations of `folders`, on all cores."""
    assert os.environ.get("TRITON_INTERPRET", "0") in ("", "0"), "the interpreter lowers nothing"
    todo = []
    for folder, arch in itertools.product(folders, ARCHITECTURES):
        numbers: dict[str, int] = {}
        for number, specialisation in enumerate(specialisations(folder, arch)):
            first = numbers.setdefault(specialisation.kernel.__name__, number) == number
            few = (arch == MAIN and first) or (arch == OLDEST and number == 0)
            todo += [(folder, number, arch)] * (everything or few)
    # Forked workers keep what is imported; nothing has started a thread yet.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        json.dump(list(pool.map(_lower, *zip(*todo, strict=True))), sys.stdout)


def _lower(folder: str, number: int, arch: int) -> dict[str, Any]:
    specialisation = specialisations(folder, arch)[number]
    return {
        "folder": folder,
        "kernel": specialisation.kernel.__name__,
        "specialisation": f"{specialisation.signature} {specialisation.constants}",
        "options": specialisation.options,
        "arch": arch,
        **asdict(lower(specialisation, arch)),
    }


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if word != "--all"], everything="--all" in sys.argv)
