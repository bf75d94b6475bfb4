"""`log.txt`: what each command said in a run folder."""

import errno
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from engine import blend, train
from engine.command import run_main
from engine.interrupts import Stopped
from engine.mistakes import ConfigError
from engine.run_log import logged
from engine.rundir import RunDir

FinishedRun = Any  # defined in conftest.py, which cannot be imported
ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \d+ (START|INFO|WARNING|ERROR|END) .+")

SHARED = """
import logging, sys
from pathlib import Path
from engine.run_log import logged
from engine.rundir import RunDir
with logged(RunDir(Path(sys.argv[1]))):
    for number in range(300):
        logging.getLogger("engine.part").warning("%s %d %s", sys.argv[2], number, "x" * 500)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A folder that holds a run, for a log."""
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    run.config.write_text("", encoding="utf-8")
    return run


def lines(run: RunDir) -> list[str]:
    return run.log.read_text(encoding="utf-8").splitlines()


def ends(run: RunDir) -> list[str]:
    return [line.split(" END ")[1] for line in lines(run) if " END " in line]


def test_a_run_leaves_what_was_shown_with_times_command_line_and_versions(
    finished_run: FinishedRun,
) -> None:
    # Tests that share the run have called commands there since, in other processes.
    every = lines(finished_run.dir)
    found = list(takewhile(lambda line: line.split()[1] == every[0].split()[1], every))
    assert all(LINE.fullmatch(line) for line in found)
    assert " START python" in found[0]
    assert " -m engine.train --config " in found[0]
    assert f"--out {finished_run.dir.root} (in {ROOT})" in found[0]
    assert re.search(r" START roomsmith .*, Python 3\..*, torch 2\..*; on ", found[1])
    shown = {line.split(" INFO ")[1] for line in found if " INFO " in line}
    assert any(line.startswith("device cpu: ") for line in shown)
    assert sum("2/2   " in line for line in shown) == 2, "the last epoch of each fold"
    # What is printed and is no message, of a table, a place or how far a stage is, is not in it.
    assert shown <= set(finished_run.stdout.splitlines())
    assert re.search(r" END after \d.* s$", found[-1])


def test_a_blend_keeps_one_too(
    untrained_run: Callable[..., RunDir], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [str(untrained_run(tmp_path / name, seed).root) for seed, name in enumerate("ab")]
    out = RunDir(tmp_path / "blend")
    arguments = [*runs, "--out", str(out.root), "--method", "equal", "--no-submission"]
    assert blend.main(arguments) == 0
    assert blend.main(arguments) == 0
    found = out.log.read_text("utf-8")
    assert found.count(" START ") == 4
    assert len(ends(out)) == 2
    # The first message was said before there was a folder, and waited for it.
    assert found.index(caplog.messages[0]) < found.index(f"{out.root} is complete; nothing to do")


def test_a_refused_command_makes_no_folder_and_one_in_a_run_says_why(
    tiny_toml: Path, tmp_path: Path, copied_run: RunDir
) -> None:
    arguments = ["--config", str(tiny_toml), "--out"]
    with pytest.raises(ConfigError):
        train.main(
            [*arguments, str(tmp_path / "new"), "--data.root", str(tmp_path), "--folds", "9"]
        )
    with pytest.raises(ValueError, match="nothing"):
        train.main([*arguments, str(tmp_path / "new"), "--data.root", str(tmp_path / "nothing")])
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="holds another experiment"):
        train.main([*arguments, str(copied_run.root), "--training.lr", "1"])
    told = f"error: {copied_run.root} holds another experiment; choose another --out, or undo:"
    assert ends(copied_run)[-1] == told
    assert lines(copied_run)[-1] == "      training.lr: 0.01 -> 1.0"


def test_an_empty_folder_that_was_there_before_gets_no_log_from_a_refused_command(
    tiny_toml: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["--config", str(tiny_toml), "--out", str(tmp_path / "empty")]
    with pytest.raises(ValueError, match="nothing"):
        train.main([*arguments, "--data.root", str(tmp_path / "nothing")])
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigError("a mistake"), "error: a mistake"),
        (OSError(errno.EACCES, "denied", "a file"), "error: a file: denied"),
        (RuntimeError("the world"), "error: the world"),
        (Stopped(2), "stopped by SIGINT; to go on, do so"),
    ],
)
def test_it_ends_with_what_the_command_prints(
    error: BaseException, told: str, run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        with logged(run, go_on="do so"):
            raise error

    with pytest.raises(SystemExit):
        run_main(main, "do so")
    assert ends(run) == [told]
    assert capsys.readouterr().err == f"{told}\n"


def test_an_error_nobody_foresaw_leaves_its_traceback(run: RunDir) -> None:
    with pytest.raises(ZeroDivisionError), logged(run):
        _ = 1 // 0
    text = run.log.read_text("utf-8")
    assert "END Traceback (most recent call last):\n" in text
    assert text.endswith("\n    ZeroDivisionError: integer division or modulo by zero\n")


def test_warnings_of_python_are_in_it_and_are_shown(run: RunDir) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = list[str]()
        warnings.showwarning = lambda message, *_, **__: shown.append(str(message))
        with logged(run):
            warnings.warn("of a package", UserWarning, stacklevel=1)
        assert shown == ["of a package"]
    (line,) = [line for line in lines(run) if "WARNING" in line]
    assert "UserWarning: of a package (" in line
    assert Path(__file__).name in line


def test_calls_append_and_leave_logging_as_it_was(run: RunDir) -> None:
    logger = logging.getLogger("engine")
    logger.setLevel(logging.ERROR)
    before = list(logger.handlers), warnings.showwarning
    for number in (1, 2):
        with logged(run, f"call {number}"):
            logging.getLogger("engine.part").info("message %d", number)
    assert (list(logger.handlers), warnings.showwarning) == before
    assert logger.level == logging.ERROR
    text = run.log.read_text("utf-8")
    places = [text.index(word) for word in ("call 1", "message 1", "call 2", "message 2")]
    assert places == sorted(places)


def test_several_processes_write_whole_lines(run: RunDir) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, str(run.root), name], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        for name in ("one", "two")
    ]
    assert [process.wait() for process in started] == [0, 0]
    found = lines(run)
    # The command line of each has several.
    assert all(LINE.fullmatch(line) or line.startswith("    ") for line in found)
    for name in ("one", "two"):
        mine = [line.split()[4] for line in found if f" WARNING {name} " in line]
        assert mine == [str(number) for number in range(300)]


def test_a_folder_that_cannot_be_written_gets_none_and_nothing_is_said(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write anywhere
    with logged(run):
        pass
    assert not run.log.exists()
    assert caplog.messages == []


def test_where_writing_fails_one_warning_says_so_and_the_command_goes_on(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", refuse)
    with logged(run):
        logging.getLogger("engine.part").info("a message")
    (told,) = [message for message in caplog.messages if message != "a message"]
    assert told.startswith(f"{run.log} cannot be written (No space left on device): ")


def test_it_is_no_file_in_the_way_of_one(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    run.log.mkdir()
    with logged(run):
        pass
    assert caplog.messages[0].startswith(f"{run.log} cannot be written (Is a directory): ")
