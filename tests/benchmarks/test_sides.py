"""A side runs in a process of its own, reports its faults, and its memory is counted as a tree."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from benchmarks.figures import Facts, take_turns
from benchmarks.sides import Prepared, Side, peak_memory, tree_memory

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="memory is counted by Linux's /proc"
)

# A child holds 64 MiB of its own and has a child that holds as much.
_TWO_HOLDERS = """
import subprocess, sys
held = bytes(range(256)) * (4 << 16)
inner = "held = bytes(range(256)) * (4 << 16); print('ready', flush=True); input()"
with subprocess.Popen([sys.executable, "-c", inner], stdin=subprocess.PIPE) as child:
    input()
"""


def test_sides_take_turns_and_return_facts_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        Side("ours", 1, Prepared, partial(Facts, 3)) as ours,
        Side("plain", 1, Prepared, partial(Facts, 4)) as plain,
    ):
        calls = take_turns("row", {"ours": ours.call, "plain": plain.call}, 3)
        assert ours.first.facts == Facts(3)
        assert [called.facts for called in calls["plain"]] == [Facts(4)] * 3
        assert all(0 < called.seconds < 1 for called in calls["ours"])
        assert ours.mib["peak_extra_mib"] >= 0
    assert capsys.readouterr().err.count("row, round ") == 3


def test_what_went_wrong_in_a_side_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)plain failed.*sqrt|plain failed.*domain"):
        Side("plain", 1, math.sqrt, -1.0)  # type: ignore[arg-type]


def test_a_side_that_dies_is_told_with_its_exit_code() -> None:
    with pytest.raises(RuntimeError, match="plain ended with exit code 3"):
        Side("plain", 1, os._exit, 3)


def test_memory_counts_a_process_and_what_it_started() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _TWO_HOLDERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with ThreadPoolExecutor(1) as pool:
            looked = pool.submit(tree_memory, process.pid)
            peak = peak_memory(process.pid, looked)
        now = looked.result()
        process.terminate()
    for held in (now.own, peak.own):
        assert 128 < held < 180
    assert now.mapped < 60
