"""How a command begins and ends: its messages, its exit code, what it says of an error."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.command import run_main, start_logging
from engine.mistakes import ConfigError

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ConfigError("a mistake"), 2, "error: a mistake\n"),
        (FileNotFoundError("a path"), 2, "error: a path\n"),
        (RuntimeError("the world"), 1, "error: the world\n"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT; to go on, run the same command again\n"),
    ],
)
def test_an_error_ends_with_its_own_code_and_its_message_alone(
    error: BaseException, code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith(shown)


def test_an_error_nobody_foresaw_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 // 0)


def test_success_ends_with_the_commands_own_code() -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: 0)
    assert caught.value.code == 0


def test_messages_of_the_engine_go_to_standard_output_bare(
    capsys: pytest.CaptureFixture[str],
) -> None:
    start_logging()
    start_logging()
    logging.getLogger("engine.part").info("one line")
    logging.getLogger("kernels.part").info("another")
    logging.getLogger("elsewhere").info("not ours")
    assert capsys.readouterr() == ("one line\nanother\n", "")


WAITING = """
import os, sys
from engine.command import run_main

def main():
    assert "torch" not in sys.modules
    print(os.environ["OMP_WAIT_POLICY"])
    return 0

run_main(main)
"""


@pytest.mark.parametrize(("asked", "policy"), [("", "passive"), ("active", "active")])
def test_threads_that_wait_sleep_unless_asked_otherwise(asked: str, policy: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": asked} if asked else {}
    command = [sys.executable, "-c", WAITING]
    assert subprocess.check_output(command, cwd=ROOT, env=environment, text=True) == f"{policy}\n"
