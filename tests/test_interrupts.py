"""SIGINT, SIGTERM and SIGHUP: the step ends, its state is written, one line says how to go on."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import train
from engine.command import run_main
from engine.interrupts import Stopped, at_checkpoints, checkpoint, heeded, is_asked
from engine.training.step import TrainStep
from engine.views.predictor import Predictor

ROOT = Path(__file__).resolve().parent.parent

FinishedRun = Any  # defined in conftest.py, which cannot be imported
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Signals as they are at first: whoever started the tests may ignore some, as `nohup` does."""
    fresh: dict[signal.Signals, Any] = dict.fromkeys(SIGNALS, signal.SIG_DFL)
    fresh[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, handler) for number, handler in fresh.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_a_command_where_it_is_and_its_code_says_which(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        send(number)
        return 0

    with pytest.raises(SystemExit) as caught:
        run_main(work, "do so")
    assert caught.value.code == 128 + number
    assert capsys.readouterr().err == f"stopped by {number.name}; to go on, do so\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_at_checkpoints_it_waits_until_the_state_is_written(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    done, before = list[int](), signal.getsignal(number)

    def work() -> None:
        for step in range(3):
            assert not is_asked()
            if step == 1:
                send(number)
            done.append(step)
            checkpoint()

    with pytest.raises(Stopped), heeded(), at_checkpoints():
        work()
    assert done == [0, 1]
    assert capfd.readouterr().err == (
        f"{number.name}: stopping after this step; once more: at once\n"
    )
    assert signal.getsignal(number) == before
    assert not is_asked()


SCRIPT = """
import os, signal, sys, time
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
from engine.command import run_main
from engine.interrupts import at_checkpoints, checkpoint

def main():
    with at_checkpoints():
        print("on", flush=True)
        for _ in range(100):
            time.sleep(0.05)
            if "endless" not in sys.argv:
                checkpoint()
    return 0

run_main(main)
"""


def script(*arguments: str, **streams: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, **streams)


def test_the_second_signal_ends_it_at_once_but_not_a_second_hang_up() -> None:
    pipe = subprocess.PIPE
    with script("endless", stdout=pipe, stderr=pipe) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "on\n"
        for number in (signal.SIGHUP, signal.SIGHUP):
            process.send_signal(number)
        assert process.stderr.readline().startswith("SIGHUP: stopping after this step")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def test_a_scheduler_that_sends_sigterm_twice_lets_the_step_end_all_the_same() -> None:
    pipe = subprocess.PIPE
    with script("endless", stdout=pipe, stderr=pipe) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline().startswith("SIGTERM: stopping after this step")
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(signal.SIGINT)  # by hand: at once
        assert process.wait() == -signal.SIGINT


def test_a_command_under_nohup_does_not_hear_the_terminal_go() -> None:
    pipe = subprocess.PIPE
    with script("nohup", stdout=pipe, stderr=pipe) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read().startswith("SIGTERM: ")
        assert process.wait() == 128 + signal.SIGTERM


def test_a_terminal_that_is_gone_does_not_keep_it_from_ending_well() -> None:
    ours, its = pty.openpty()
    with script(stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        said = b""
        while said != b"on\r\n":  # a terminal takes it in pieces: gone in between is an error
            said += os.read(ours, 4)
        os.close(ours)  # every write is an error now
        process.send_signal(signal.SIGHUP)
        assert process.wait() == 128 + signal.SIGHUP


def test_stopped_by_each_signal_a_run_ends_with_the_same_bytes(
    finished_run: FinishedRun,
    tiny_toml: Path,
    tmp_path: Path,
    read_run: Callable[[Path], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a step, in a validation and between out-of-fold frames: none of it is done twice."""

    def stopped(number: signal.Signals, kind: type, name: str, count: int) -> list[int]:
        """Send a signal within a call of a method; how often that was called in all."""
        method, calls = getattr(kind, name), [0]

        def sending(*arguments: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == count:
                send(number)
            return method(*arguments, **named)

        arguments = ["--config", str(tiny_toml), "--out", str(tmp_path), "--resume"]
        arguments += ["--runtime.save_every", "1000"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, name, sending)
            with pytest.raises(SystemExit) as caught:
                run_main(lambda: train.main(arguments), "resume")
        assert caught.value.code == 128 + number
        assert f"stopped by {number.name}; to go on, resume" in capsys.readouterr().err
        return calls

    def position() -> tuple[int, int]:
        state = torch.load(tmp_path / "fold0" / "last.pt", weights_only=True)
        return state["epoch"], state["step"]

    assert stopped(signal.SIGHUP, TrainStep, "__call__", 2) == [2]
    assert position() == (0, 2)
    assert stopped(signal.SIGTERM, Predictor, "counts", 2) == [2]
    assert position() == (0, 3), "after the last step of the epoch"
    oof = stopped(signal.SIGINT, Predictor, "counts", 2 * 2 * 3 + 2)
    assert oof == [2 * 2 * 3 + 2], "two epochs of two folds, three batches each, then out-of-fold"
    (note,) = tmp_path.glob(".results.lease/free/*/progress.json")
    assert '"done": 4' in note.read_text(encoding="utf-8")
    arguments = ["--config", str(tiny_toml), "--out", str(tmp_path)]
    assert train.main([*arguments, "--resume"]) == 0
    now, calm = read_run(tmp_path), read_run(finished_run.dir.root)
    assert {name for name in calm | now if now.get(name) != calm.get(name)} <= {"config.toml"}
