"""A whole sweep by real processes, its driver killed once: the bytes of one run after another."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import train
from engine.rundir import RunDir
from engine.sweep import command as sweep
from engine.sweep.table import stand_of

ROOT = Path(__file__).parents[2]
LONG_S = 600.0
"""Longer than any of it takes, on a busy machine too."""


def processes_of(folder: Path) -> list[int]:
    """Processes that were started with words that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def until(happens: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not happens():
        assert time.monotonic() < deadline_s
        assert process is None or process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)


def test_a_sweep_whose_driver_is_killed_ends_with_the_bytes_of_one_run_after_another(
    tiny_toml: Path,
    tmp_path: Path,
    read_run: Callable[[Path], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Two runs took twice as long; `python -m tests.cluster_storm` has twelve of three folds.
    file, folder, name = tmp_path / "rates.toml", tmp_path / "sweep", "tiny"
    file.write_text(
        f'experiments = [["{tiny_toml}"]]\nleaderboard = false\n'
        "[fields]\ntraining.epochs = 1\n[grid]\ntraining.lr = [0.02]\n",
        encoding="utf-8",
    )
    words = ["--config", str(tiny_toml), "training.epochs=1", "training.lr=0.02"]
    assert train.main([*words, "--out", str(tmp_path / "alone")]) == 0

    command = [sys.executable, "-m", "engine.sweep", str(file), "--out", str(folder)]
    command += ["--workers", "2"]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    driver = subprocess.Popen(command, cwd=ROOT, **out)  # type: ignore[call-overload]
    first = RunDir(folder / name)
    until(lambda: stand_of(first, 0).epoch == 1 or stand_of(first, 1).epoch == 1, driver)
    driver.kill()
    driver.communicate()
    until(lambda: not processes_of(folder))

    again = subprocess.run(command, cwd=ROOT, check=False, **out)  # type: ignore[call-overload]
    assert again.returncode == 0, again.stdout
    told = re.search(r"(\d) commands done, (\d) had been before", again.stdout)
    assert told is not None, again.stdout
    assert int(told[1]) + int(told[2]) == 3
    assert int(told[2]) >= 1
    assert f"{name}/finish: done" in again.stdout
    assert read_run(folder / name) == read_run(tmp_path / "alone")
    assert processes_of(folder) == []
    assert not list(folder.rglob("*.lease*"))
    assert not list(folder.rglob("*.tmp"))

    capsys.readouterr()
    assert sweep.main([str(file), "--out", str(folder), "--workers", "2"]) == 0
    assert "0 commands done, 3 had been before" in capsys.readouterr().out
