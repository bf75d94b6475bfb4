"""How a command begins and ends: its messages, its exit code, what it says of an error."""

import logging
import os
from pathlib import Path

import pytest

from engine import command
from engine.command import run_main, start_logging
from engine.mistakes import ConfigError


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


@pytest.mark.parametrize(
    ("load", "asked", "policy"),
    [
        ("1.90 1.0 1.0 2/100 7", "", "passive"),
        ("1.90 1.0 1.0 2/100 7", "active", "active"),
        ("1.90 1.0 1.0 1/100 7", "", None),  # what ran a moment ago is gone
        ("0.10 1.0 1.0 3/100 7", "", None),  # what runs now has not run for long
    ],
)
def test_threads_that_wait_sleep_where_others_run_unless_asked_otherwise(
    load: str, asked: str, policy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loadavg").write_text(load, encoding="ascii")
    monkeypatch.setattr(command, "_LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv("OMP_WAIT_POLICY", asked)
    if not asked:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        run_main(lambda: 0)
    assert os.environ.get("OMP_WAIT_POLICY") == policy


def test_a_system_that_tells_no_load_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_LOAD", tmp_path / "absent")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        run_main(lambda: 0)
    assert "OMP_WAIT_POLICY" not in os.environ
