"""Every Triton kernel, as its operation launches it, in machine code for GPUs that are not here."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from torch.torch_version import TorchVersion

from benchmarks.sass import Block

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = sorted(path.parent.name for path in (ROOT / "kernels").glob("*/triton.py"))

# Bytes that one block may have (CUDA C Programming Guide, table of compute capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}

NEW = TorchVersion(version("triton")) >= "3.8"
"""Not the oldest that is supported, 3.6."""

# Registers a thread; 65536 / (ceiling x threads of a block) blocks then fit a multiprocessor.
REGISTER_CEILING = {
    "add_views": 136 if NEW else 152,  # of 32 classes; of 13 at four temperatures 128, or 146
    "add_views_of_many_classes": 128,
    "boundary_ce_encode": 128,
    "boundary_ce_finish": 64,
    "boundary_ce_sweep": 255,
    "convolve_and_normalise": 128 if NEW else 192,
    "convolve_backward": 255,
    # Before 3.8 Triton votes for each bin of a histogram, and holds what it votes by.
    "count_pairs": 40 if NEW else 64,
    "count_step": 64,
    "crop_rows": 48,
    "finish_norm": 32,
    "input_gradient": 80,
    "merge_gradients": 40,
    "merge_moments": 40,
    "normalise": 64,
    "normalise_backward": 128,
    "normalise_doubled": 144,  # nine cells' neighbourhood
    "run_gradients": 128 if NEW else 136,
    "run_moments": 80,
    "scale_rows": 32,
    "scale_rows_backward": 48,
    "sum_squares": 40,
    "update_weights": 96,
    "walk_blends": 112,
    "write_blends": 104,
    "write_winners": 64,
}

# Three blocks of 128 threads fit a multiprocessor, the fewest that hide a load's time.
MOST_REGISTERS = 168
# But hundreds of independent instructions between two loads of a thread hide it as well.
FEW_THREADS = {"boundary_ce_sweep", "convolve_and_normalise", "convolve_backward"}

# Kernels that read neighbouring memory in order, and by what a specialisation that does is known
# ("": all do); the others gather, byte by byte or pixel by pixel.
READS_128_BITS = {
    "count_pairs": "",
    "input_gradient": "",
    "normalise": "",
    "normalise_backward": "",
    "normalise_doubled": "",
    "run_gradients": "",
    "run_moments": "",
    "scale_rows": "",
    "scale_rows_backward": "",
    "sum_squares": "",
    "update_weights": "",
}

# What no innermost loop has unless docs/kernels.md says why: what all threads of a block or a warp
# wait for, and arithmetic that most GPUs do at a 32nd or a 64th of their rate.
DEAR = {"BAR", "SHFL", "F64"}
ROW = re.compile(r"^\| `(\w+)` \| ((?:(?:BAR|SHFL|F64)(?:, )?)+) \| .{20,} \|$", re.MULTILINE)
STATED = {
    kernel: set(kinds.split(", "))
    for kernel, kinds in ROW.findall((ROOT / "docs" / "kernels.md").read_text("utf-8"))
}

EVERYTHING = ["--all"] if os.environ.get("LOWER_ALL") else []
"""`make test-lowering` and `make test-full` set it; without, few specialisations stand for all."""


@pytest.fixture(scope="session")
def lowered() -> list[dict[str, Any]]:
    """What tests/kernels/lowering.py says of every kernel; of all its forms if LOWER_ALL is set."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "kernels" / "lowering.py", *EVERYTHING, *FOLDERS],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records: list[dict[str, Any]] = json.loads(done.stdout)
    return records


@pytest.fixture(params=FOLDERS)
def records(request: pytest.FixtureRequest, lowered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernels of one folder."""
    found = [record for record in lowered if record["folder"] == request.param]
    assert found, f"kernels/{request.param}/launch.py launches no Triton kernel"
    return found


def test_it_is_lowered_for_each_architecture(records: list[dict[str, Any]]) -> None:
    seen: dict[str, set[int]] = {}
    for record in records:
        key = record["kernel"] + record["specialisation"] * bool(EVERYTHING)
        seen.setdefault(key, set()).add(record["arch"])
    if EVERYTHING:
        assert all(architectures == set(SHARED_LIMIT) for architectures in seen.values())
    else:
        assert all(90 in architectures for architectures in seen.values())
        assert set.union(*seen.values()) == {80, 90}


def test_no_register_is_spilled(records: list[dict[str, Any]]) -> None:
    spilled = [record for record in records if record["spilled"]]
    assert spilled == []
    # Nor does memory stand in for one otherwise, as an array does whose index varies.
    assert [record for record in records if {"LDL", "STL"} & set(record["code"]["counts"])] == []


def dear_in_innermost_loops(records: list[dict[str, Any]]) -> Iterator[tuple[str, str, int]]:
    """Kernel, kind and architecture."""
    for record in records:
        for loop in Block.read(record["code"]).innermost():
            for kind in sorted(DEAR & set(loop.counts)):
                yield record["kernel"], kind, record["arch"]


def test_an_innermost_loop_neither_waits_nor_counts_in_float64_unless_the_page_says_why(
    records: list[dict[str, Any]],
) -> None:
    found = set(dear_in_innermost_loops(records))
    assert sorted(one for one in found if one[1] not in STATED.get(one[0], set())) == []


@pytest.mark.full
@pytest.mark.skipif(not EVERYTHING, reason="rare forms are what it excuses: make test-lowering")
def test_the_page_excuses_nothing_that_is_gone(lowered: list[dict[str, Any]]) -> None:
    found = {(kernel, kind) for kernel, kind, _ in dear_in_innermost_loops(lowered)}
    stated = {(kernel, kind) for kernel, kinds in STATED.items() for kind in kinds}
    assert stated - found == set()


def test_registers_stay_under_the_stated_ceiling(records: list[dict[str, Any]]) -> None:
    for record in records:
        ceiling = record["options"].get("maxnreg") or REGISTER_CEILING[record["kernel"]]
        most = 255 if record["kernel"] in FEW_THREADS else MOST_REGISTERS
        assert record["registers"] <= ceiling <= most, record


def test_shared_memory_fits_the_architecture(records: list[dict[str, Any]]) -> None:
    over = [record for record in records if record["shared"] > SHARED_LIMIT[record["arch"]]]
    assert over == []


@pytest.mark.parametrize("kernel", READS_128_BITS)
def test_what_lies_in_order_is_loaded_128_bits_at_a_time(
    lowered: list[dict[str, Any]], kernel: str
) -> None:
    in_order = [
        record
        for record in lowered
        if record["kernel"] == kernel and READS_128_BITS[kernel] in record["specialisation"]
    ]
    assert in_order, f"no specialisation of {kernel} holds {READS_128_BITS[kernel]!r}"
    assert [record for record in in_order if not record["loads"].get("128")] == []
