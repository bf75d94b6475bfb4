"""A finished run answers a second call at once, by its seal, and notices what has changed since."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import train
from engine.cli import load_config
from engine.config import Config
from engine.report.finish import is_finished
from engine.report.seal import is_sealed
from engine.rundir import RunDir
from engine.sums import sum_file

FinishedRun = Any  # defined in conftest.py, which cannot be imported

ANSWER = """
import sys
from engine import train
assert train.main(sys.argv[1:]) == 0
heavy = [name for name in ("torch", "timm", "numba", "scipy", "PIL") if name in sys.modules]
assert not heavy, f"answered only after importing {heavy}"
"""


def test_it_answers_without_importing_anything_heavy(
    finished_run: FinishedRun, tiny_toml: Path
) -> None:
    arguments = ["--config", str(tiny_toml), "--out", str(finished_run.dir.root)]
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"OOF mIoU at label resolution {finished_run.summary['oof']['miou']:.4f}" in done.stdout


@pytest.fixture
def sealed(copied_run: RunDir, tiny_config: Config, tmp_path: Path) -> tuple[Config, RunDir, Path]:
    """A finished run and its dataset, both of the test's own."""
    data, run = tmp_path / "data", copied_run
    shutil.copytree(tiny_config.data.root, data)
    config = load_config([run.config], {"data": {"root": str(data)}})
    arguments = ["--config", str(run.config), "--data.root", str(data), "--out", str(run.root)]
    assert not is_sealed(config, run)  # a copy has other inodes
    assert train.main(arguments) == 0
    assert is_sealed(config, run)
    return config, run, data


def rewritten(path: Path) -> None:
    """Other bytes of the same number, at the same time."""
    told = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda run, data: rewritten(data / "train" / "label" / "003.png"),
        lambda run, data: (data / "test" / "image" / "001.png").unlink(),
        lambda run, data: (data / "scenes.csv").write_text("stem,scene\n", "utf-8"),
        lambda run, data: rewritten(run.best(1)),
        lambda run, data: run.submission.unlink(),
        lambda run, data: rewritten(run.oof / "prob.npy"),
    ],
    ids=["label", "test image", "scenes", "weights", "submission", "store"],
)
def test_a_changed_file_breaks_the_seal(
    change: Callable[[RunDir, Path], None], sealed: tuple[Config, RunDir, Path]
) -> None:
    config, run, data = sealed
    change(run, data)
    assert not is_sealed(config, run)


def test_another_experiment_breaks_the_seal_and_another_runtime_does_not(
    sealed: tuple[Config, RunDir, Path],
) -> None:
    config, run, _ = sealed
    training = config.training.model_copy(update={"lr": 1.0})
    assert not is_sealed(config.model_copy(update={"training": training}), run)
    runtime = config.runtime.model_copy(update={"workers": 7})
    assert is_sealed(config.model_copy(update={"runtime": runtime}), run)
    report = config.report.model_copy(update={"tensorboard": True, "page": False})
    assert is_sealed(config.model_copy(update={"report": report}), run)


def test_what_is_for_people_only_is_under_no_seal(sealed: tuple[Config, RunDir, Path]) -> None:
    config, run, _ = sealed
    for path in (run.log, run.curves, run.report):
        path.write_text("other\n", encoding="utf-8")
    assert is_sealed(config, run)


def test_the_same_dataset_elsewhere_is_the_same_experiment(
    sealed: tuple[Config, RunDir, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run, data = sealed
    shutil.copytree(data, tmp_path / "elsewhere")
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    arguments = ["--config", str(run.config), "--out", str(run.root), "--runtime.workers", "2"]
    assert train.main([*arguments, "--data.root", str(tmp_path / "elsewhere")]) == 0
    after = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed <= {run.root, run.seal, sum_file(run.seal), run.log}


def files_of(config: Config, run: RunDir) -> list[str]:
    return ["--config", str(run.config), "--data.root", config.data.root, "--out", str(run.root)]


def test_a_run_whose_dataset_changed_meanwhile_gets_no_seal(
    sealed: tuple[Config, RunDir, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, run, data = sealed
    run.seal.unlink()

    def finish_and_touch(*arguments: Any, **named: Any) -> bool:
        (data / "train" / "label" / "003.png").touch()
        return is_finished(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr("engine.stages.is_finished", finish_and_touch)
        assert train.main(files_of(config, run)) == 0
    assert f"{run.root} gets no seal ({data} changed while it ran; run the same" in caplog.text
    assert not run.seal.exists()
    assert train.main(files_of(config, run)) == 0
    assert is_sealed(config, run)


def test_a_seal_that_cannot_be_written_is_one_line(
    sealed: tuple[Config, RunDir, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(path: Path, _: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    config, run, _ = sealed
    run.seal.unlink()
    monkeypatch.setattr("engine.report.seal.write_summed", refuse)
    assert train.main(files_of(config, run)) == 0
    refused = f"[Errno 30] Read-only file system: '{run.seal}'"
    assert caplog.messages[-1] == f"{run.root} gets no seal ({refused})"
    assert "OOF mIoU" in capsys.readouterr().out, "the run is shown all the same"


@pytest.mark.parametrize("name", ["config", "environment", "folds", "temperature"])
def test_a_small_file_that_was_deleted_is_made_again(
    name: str,
    finished_run: FinishedRun,
    copied_run: RunDir,
    tiny_toml: Path,
    read_run: Callable[[Path], dict[str, Any]],
) -> None:
    getattr(copied_run, name).unlink()
    assert train.main(["--config", str(tiny_toml), "--out", str(copied_run.root)]) == 0
    assert read_run(copied_run.root) == read_run(finished_run.dir.root)
