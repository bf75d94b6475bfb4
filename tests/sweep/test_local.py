"""Commands as real processes: their ends, their logs, their GPUs, and that none outlives us."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from engine.sweep import child, local
from engine.sweep.driver import Ended
from engine.sweep.local import LocalWorkers, visible_gpus
from engine.sweep.plan import Command

ROOT = Path(__file__).parents[2]
LONG_S = 60.0
"""Longer than any of these takes."""


def ends(workers: LocalWorkers, count: int) -> dict[object, Ended]:
    found: dict[object, Ended] = {}
    deadline_s = time.monotonic() + LONG_S
    while len(found) < count:
        assert time.monotonic() < deadline_s
        found |= {ended.handle: ended for ended in workers.poll()}
        time.sleep(0.02)
    return found


def programs(*lines: str) -> Callable[[Sequence[str]], list[str]]:
    """Stand in for the engine: the first word of a command is the number of a program."""
    return lambda argv: [sys.executable, "-c", lines[int(argv[0])]]


def test_a_command_is_the_engines_and_its_end_and_log_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    workers = LocalWorkers(2, tmp_path / "logs")
    good = workers.start(Command("a/fold0", ("--version",)))
    bad = workers.start(Command("a/fold1", ("trian", "demo")))
    found = ends(workers, 2)
    assert found[good] == Ended(good, 0)
    assert (tmp_path / "logs" / "a-fold0.log").read_text("utf-8").startswith("roomsmith ")
    assert found[bad].code == 2
    log = tmp_path / "logs" / "a-fold1.log"
    assert found[bad].told == f"error: unknown verb 'trian'; did you mean train? ({log})"
    assert workers.poll() == []


def test_stopping_is_asked_for_and_closing_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); "
        "print('ready', flush=True); time.sleep(60)"
    )
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    monkeypatch.setattr(child, "words", programs(saves, deaf))
    workers = LocalWorkers(2, tmp_path)
    first, second = workers.start(Command("a", ("0",))), workers.start(Command("b", ("1",)))
    while "ready" not in (tmp_path / "a.log").read_text("utf-8"):
        time.sleep(0.02)
    workers.stop(first)
    assert ends(workers, 1)[first].code == 143
    workers.close()
    assert isinstance(second, int)
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_each_slot_has_its_gpu_and_one_that_is_free_again_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)"
    waits = f"{show}; import time; time.sleep(60)"
    monkeypatch.setattr(child, "words", programs(show, waits))
    workers = LocalWorkers(3, tmp_path, ["4", "7"])
    for name in ("a", "b"):
        workers.start(Command(name, ("0" if name == "a" else "1",)))
    ends(workers, 1)
    workers.start(Command("c", ("0",)))
    workers.start(Command("d", ("0",)))
    ends(workers, 2)
    while not (tmp_path / "b.log").read_text("utf-8"):
        time.sleep(0.02)
    workers.close()
    shown = [(tmp_path / f"{name}.log").read_text("utf-8").strip() for name in "abcd"]
    assert shown == ["4", "7", "4", "4"]


def test_gpus_are_those_that_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_GPUS", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == []
    for name in ("0000:1b:00.0", "0000:43:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert visible_gpus() == ["3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_a_killed_driver_leaves_no_process(tmp_path: Path) -> None:
    works = (
        "import sys, os, time; from engine.sweep.child import bind; bind(os.getppid()); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    driver = (
        "import sys, time; from pathlib import Path; from engine.sweep import child\n"
        "from engine.sweep.local import LocalWorkers; from engine.sweep.plan import Command\n"
        f"child.words = lambda argv: [sys.executable, '-c', {works!r}]\n"
        "workers = LocalWorkers(2, Path(sys.argv[1]))\n"
        "for name in 'ab': workers.start(Command(name, ()))\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", driver, str(tmp_path)], cwd=ROOT)
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    deadline_s = time.monotonic() + LONG_S
    while not all(log.exists() and log.read_text("utf-8").endswith("\n") for log in logs):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    pids = [int(log.read_text("utf-8")) for log in logs]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    process.kill()
    process.wait()
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_child_of_a_driver_that_is_gone_already_does_not_begin() -> None:
    program = "from engine.sweep.child import main; main()"
    words = [sys.executable, "-c", program, str(os.getppid()), "--version"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, b"")


def _lives(pid: int) -> bool:
    """Whether a process is there, and no zombie whose parent has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
