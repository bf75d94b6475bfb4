"""One of two processes fails: both end soon, and what it was is told once."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from engine.distributed.process import Process

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 30.0
"""From the failure on; with the beats of `failing.py` it is a fifth of that."""


def two_processes(kind: str, run: Path) -> tuple[list[int], list[str], list[int]]:
    """Exit codes, what they said on standard error, and their numbers."""
    run.mkdir()
    (run / "config.toml").touch()  # a run's folder
    store = dist.TCPStore(  # type: ignore[attr-defined] # as torchrun's agent keeps
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
    )
    processes = []
    for rank in range(2):
        named = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        named |= {"MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
        environment = {**os.environ, **{key: str(value) for key, value in named.items()}}
        command = [sys.executable, "-m", "tests.distributed.failing", kind, str(run)]
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=240)[1] for process in processes]
    codes = [process.returncode for process in processes]
    return codes, said, [process.pid for process in processes]


@pytest.mark.parametrize(
    ("kind", "codes", "told"),
    [
        ("raise", [1, 1], "rank 1 of 2 (process {1}"),
        pytest.param("mistake", [2, 2], "type another", marks=pytest.mark.full),
        ("lost", [1, -9], "rank 1 of 2 (process {1} on {host}) is gone: killed"),
        pytest.param(
            *("0lost", [-9, 1], "rank 0 of 2 (process {0} on {host}) is gone: killed"),
            marks=pytest.mark.full,
        ),
        pytest.param(
            *("frozen", [1, -9], "rank 1 of 2 (process {1} on {host}) has given no sign of life"),
            marks=pytest.mark.full,
        ),
        ("0frozen", [-9, 1], "rank 0 of 2 (process {0} on {host}) has given no sign of life"),
    ],
)
def test_what_ends_one_ends_both_and_is_told_once(
    kind: str, codes: list[int], told: str, tmp_path: Path
) -> None:
    found, said, numbers = two_processes(kind, tmp_path / "run")
    assert found == codes, said
    needed = told.format(*numbers, host=Process.this().host)
    assert "".join(said).count("error: ") == 1, "one of them tells"
    assert needed in "".join(said)
    log = (tmp_path / "run" / "log.txt").read_text("utf-8")
    assert log.count(" END ") == 1
    assert needed in log
    moment = (tmp_path / "run" / "failed").stat().st_mtime
    assert (tmp_path / "run" / "log.txt").stat().st_mtime - moment < LIMIT_S


def test_one_that_computes_for_long_is_not_given_up(tmp_path: Path) -> None:
    codes, said, _ = two_processes("busy", tmp_path / "run")
    assert codes == [0, 0], said
    assert "".join(said) == ""


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    here = Process.parse(Process.this().to_json().encode())
    assert not here.is_gone()
    assert not here.is_stopped()
    assert Process(here.host, here.system, here.pid, "another").is_gone(), "a later one"
    assert not Process("far", "another machine", here.pid, "0").is_gone(), "who knows"
    child = subprocess.Popen(["sleep", "60"])
    with child:
        stat = Path(f"/proc/{child.pid}/stat").read_text("utf-8")
        seen = Process(here.host, here.system, child.pid, stat.rpartition(")")[2].split()[19])
        os.kill(child.pid, 19)
        while not seen.is_stopped():
            time.sleep(0.01)
        seen.kill()
    assert seen.is_gone()
