"""A side runs in a process of its own, reports its faults, and its memory is counted as a tree."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from benchmarks import sides
from benchmarks.figures import Facts, Limit, take_turns
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


# Nobody waits for the end of it: only a child that is stopped ends in time.
_LONG_S = 60
_BUSY_FROM_THE_SECOND_CALL = f"""
calls.append(0)
if len(calls) > 1:
    import time
    time.sleep({_LONG_S})
"""


def test_sides_take_turns_and_return_facts_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        Side("ours", 1, Prepared, partial(Facts, 3)) as ours,
        Side("plain", 1, Prepared, partial(Facts, 4)) as plain,
    ):
        calls = take_turns("row", {"ours": ours.call, "plain": plain.call}, Limit(3))
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


def test_ctrl_c_stops_a_side_in_the_midst_of_its_preparation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sides, "peak_memory", interrupted)
    start_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Side("plain", 1, time.sleep, _LONG_S)  # type: ignore[arg-type]
    # Importing torch takes some of it.
    assert time.monotonic() - start_s < _LONG_S / 2
    assert multiprocessing.active_children() == []


@pytest.fixture
def listening() -> Iterator[None]:
    """This process ends on Ctrl-C; one that a script starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_stops_both_sides_in_the_midst_of_a_call() -> None:
    busy: Any = partial(exec, _BUSY_FROM_THE_SECOND_CALL, {"calls": []})
    started_s = []

    def interrupted() -> None:
        with (
            Side("ours", 1, Prepared, partial(Facts, 3)),
            Side("plain", 1, Prepared, busy) as plain,
        ):
            started_s.append(time.monotonic())
            Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            plain.call()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - started_s[0] < sides._LEAVE_S / 2
    assert multiprocessing.active_children() == []


def test_memory_counts_a_process_and_what_it_started() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _TWO_HOLDERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        now = tree_memory(process.pid)
        peak = peak_memory(process.pid, lambda _: True)
        process.terminate()
    for held in (now.own, peak.own):
        assert 128 < held < 180
    assert now.mapped < 60
