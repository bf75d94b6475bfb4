"""A command below its keeper ends with whoever started that, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.sweep.kept import words

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os, signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print(os.getpid(), os.environ["OMP_NUM_THREADS"], flush=True)
if sys.argv[1:]:
    sys.exit(int(sys.argv[1]))
time.sleep(60)
"""


def wait_for(log: Path, lines: int) -> list[str]:
    for _ in range(1200):
        said = log.read_text("utf-8").splitlines() if log.exists() else []
        if len(said) >= lines:
            return said
        time.sleep(0.05)
    raise AssertionError(f"{log} has no {lines} lines")


def kept(log: Path, *arguments: str) -> list[str]:
    return words(log, 3, [sys.executable, "-c", PROGRAM, *arguments])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    log = tmp_path / "log"
    with subprocess.Popen(kept(log), cwd=ROOT, start_new_session=True) as keeper:
        wait_for(log, 1)
        yield keeper, log
        keeper.kill()


def test_its_code_and_its_output_are_the_programs_and_the_file_grows(tmp_path: Path) -> None:
    for code in (0, 5):
        done = subprocess.run(kept(tmp_path / "log", str(code)), cwd=ROOT, check=False)
        assert done.returncode == code
    assert [line.split()[1] for line in wait_for(tmp_path / "log", 2)] == ["3", "3"]


def test_sigterm_reaches_the_program_which_saves(
    running: tuple[subprocess.Popen[bytes], Path],
) -> None:
    keeper, log = running
    keeper.send_signal(signal.SIGTERM)
    assert keeper.wait() == 143
    assert wait_for(log, 2)[1] == "saved"


def test_a_keeper_that_is_killed_has_its_program_sent_sigterm(
    running: tuple[subprocess.Popen[bytes], Path],
) -> None:
    keeper, log = running
    keeper.kill()
    assert wait_for(log, 2)[1] == "saved"


def test_a_frozen_program_is_killed_by_sigusr1(
    running: tuple[subprocess.Popen[bytes], Path],
) -> None:
    keeper, log = running
    os.kill(int(wait_for(log, 1)[0].split()[0]), signal.SIGSTOP)
    keeper.send_signal(signal.SIGUSR1)
    assert keeper.wait() == 128 + signal.SIGKILL
