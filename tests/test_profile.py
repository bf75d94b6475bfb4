"""`engine.train --profile` on twelve frames: what it writes, and that it writes nothing else."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine import train
from engine.cli import run_main

FinishedRun = Any  # defined in conftest.py, which cannot be imported


def exit_code(*arguments: object) -> int:
    """What the command would end with; it runs in this process."""
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: train.main(list(map(str, arguments))))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def mtimes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_profile_adds_up_and_touches_nothing_else(
    finished_run: FinishedRun, tiny_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished_run.dir.root, root)
    before = mtimes(root)
    assert exit_code("--config", tiny_toml, "--out", root, "--profile") == 0
    folder = root / "profile"
    after = {
        path: time
        for path, time in mtimes(root).items()
        if path != folder and folder not in path.parents
    }
    assert after == before
    figures = json.loads((folder / "phases.json").read_text(encoding="utf-8"))
    assert {"data wait", "forward", "loss", "backward", "optimizer", "average"} <= set(
        figures["step_s"]
    )
    assert figures["largest"] == max(figures["epoch_s"], key=figures["epoch_s"].get)
    assert 0 < figures["network_share"] < 1
    with gzip.open(folder / "trace.json.gz", "rt", encoding="utf-8") as file:
        assert "aten::convolution" in file.read()
    assert f"{figures['largest']} is the largest" in capsys.readouterr().out


def test_without_epochs_there_is_no_profile(
    finished_run: FinishedRun, tiny_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--profile", "--training.epochs", 0, "--model.weights", finished_run.dir.best(0))
    assert exit_code("--config", tiny_toml, "--out", tmp_path / "new", *flags) != 0
    assert "nothing to train" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
