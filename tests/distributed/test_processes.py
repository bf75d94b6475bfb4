"""Two processes that torchrun starts leave what one leaves; the long form is `tests.ranks`."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import train
from engine.command import Ranks, ranks
from engine.config import Config
from engine.distributed.world import World
from engine.mistakes import ConfigError
from engine.rundir import RunDir
from engine.runtime.recorded import RecordedRuntime
from tests.conftest import ROOT, FinishedRun
from tests.ranks import digests, signalled, torchrun

STEPS = 3
LIMIT_S = 30.0
"""Between a fault and the end of all processes; docs/processes.md."""


def test_two_processes_take_the_steps_of_one_byte_by_byte() -> None:
    """Norms, dropout, drop paths, clipping, accumulation, parts of unlike sizes and labels."""
    torch.set_num_threads(1)
    alone = digests(World(), STEPS)
    command = torchrun(2, "tests.ranks", "--steps", str(STEPS))
    both = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert both.returncode == 0, both.stderr
    assert [both.stdout.count(line) for line in alone] == [2, 2]


def test_two_processes_stop_after_the_same_step_and_one_goes_on(
    tiny_toml: Path, tmp_path: Path, read_run: Callable[[Path], dict[str, Any]]
) -> None:
    """The second is asked to stop: all save, the first alone says so, and no byte is lost."""
    words = [str(tiny_toml), "training.parts=2", "data.folds=2", "inference.scales=1.0"]
    words += ["training.validate_every=2", "runtime.keep_last=true"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train.main([*words, "--out", str(whole)]) == 0
    done = signalled([*words, "--out", str(stopped)], 2, 1, "SIGTERM")
    assert done.stderr.count("stopped by SIGTERM; to go on") == 1
    assert done.stderr.count("SIGTERM: stopping after this step") == 0  # it was the second's
    assert (stopped / "fold0" / "last.pt").exists()
    assert RecordedRuntime.read(stopped / "fold0" / "runtime.json").reduce == "tree"
    assert train.main([*words, "--out", str(stopped), "--resume"]) == 0
    expected, found = read_run(whole), read_run(stopped)
    assert {name for name in expected if expected[name] != found.get(name)} <= {"environment.json"}
    assert expected.keys() == found.keys()


def test_more_processes_than_parts_look_at_the_frames_of_a_trained_run(
    copied_run: RunDir, finished_run: FinishedRun, read_run: Callable[[Path], dict[str, Any]]
) -> None:
    shutil.rmtree(copied_run.oof)
    for path in (copied_run.temperature, copied_run.submission, copied_run.summary):
        path.unlink()
    copied_run.seal.unlink()
    command = torchrun(2, "engine.train", "--out", str(copied_run.root))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected, found = read_run(finished_run.dir.root), read_run(copied_run.root)
    assert {name for name in expected if expected[name] != found.get(name)} <= {"environment.json"}
    assert expected.keys() == found.keys()


@pytest.mark.parametrize("reduce", ["fast", pytest.param("tree", marks=pytest.mark.full)])
def test_what_is_not_finite_on_one_ends_both_and_is_told_once(
    reduce: str, tiny_toml: Path, tmp_path: Path
) -> None:
    """The second process has an image that is not finite; what it was is told by the first."""
    run = tmp_path / "run"
    words = [str(tiny_toml), "training.parts=2", "data.folds=2", f"training.reduce={reduce}"]
    done = signalled([*words, "--out", str(run)], 2, 1, "NAN")
    moment = float(done.stderr.partition("not finite from ")[2].split()[0])
    assert time.time() - moment < LIMIT_S
    assert done.returncode == 1
    told = "the loss or its gradient is not finite; samples"
    assert done.stderr.count("error: ") == 1, done.stderr
    assert done.stderr.count(told) == 1
    log = (run / "log.txt").read_text("utf-8")
    assert (log.count(" END "), log.count(told)) == (1, 1)
    assert not (run / "fold0" / "best.safetensors").exists(), "nothing bad is kept"


def test_who_started_it_says_which_process_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert ranks() == Ranks(0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ranks() == Ranks(0, 1)  # nobody says where to meet
    monkeypatch.setenv("MASTER_ADDR", "host")
    assert ranks() == Ranks(3, 4)


def test_more_processes_than_parts_are_told_what_to_type() -> None:
    told = "2 processes, and training.parts = 1: .* type training.parts=2 "
    with pytest.raises(ConfigError, match=told):
        train._check_processes(Config(), Ranks(0, 2))
