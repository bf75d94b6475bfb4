"""`engine.train --profile` on twelve frames: what it writes, and that it writes nothing else."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from engine import train
from engine.mistakes import ConfigError
from engine.rundir import RunDir
from engine.training.profile import PhaseReport

FinishedRun = Any  # defined in conftest.py, which cannot be imported


def mtimes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_profile_adds_up_and_touches_nothing_else(
    copied_run: RunDir, tiny_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied_run.root
    before = mtimes(root)
    assert train.main(["--config", str(tiny_toml), "--out", str(root), "--profile"]) == 0
    folder = root / "profile"
    after = {
        path: time
        for path, time in mtimes(root).items()
        if path != folder and folder not in path.parents
    }
    assert after == before
    report = PhaseReport.read(folder / "phases.json")
    network = {"forward", "loss", "backward", "optimizer", "average"}
    assert set(report.step_s) == {"data wait", *network, "other"}
    assert list(report.step_s.values()) == sorted(report.step_s.values(), reverse=True)
    assert set(report.epoch_s) == {*report.step_s, "checkpoint", "validation"}
    assert report.largest == max(report.epoch_s, key=lambda phase: report.epoch_s[phase])
    assert 0 < report.network_share < 1
    with gzip.open(folder / "trace.json.gz", "rt", encoding="utf-8") as file:
        assert "aten::convolution" in file.read()
    slowest = list(report.operation_s.values())
    assert slowest == sorted(slowest, reverse=True)
    assert 0 < report.operation_s["aten::convolution_backward"] < sum(slowest)
    said = capsys.readouterr().out
    assert f"{report.largest} is the largest" in said
    assert f"the slowest of {len(slowest)} operations, by 3 traced steps" in said


def test_without_epochs_there_is_no_profile(
    finished_run: FinishedRun, tiny_toml: Path, tmp_path: Path
) -> None:
    out, weights = tmp_path / "new", finished_run.dir.best(0)
    flags = ["--profile", "--training.epochs", "0", "--model.weights", str(weights)]
    with pytest.raises(ConfigError, match=r"training\.epochs = 0, so there is nothing to train"):
        train.main(["--config", str(tiny_toml), "--out", str(out), *flags])
    assert not out.exists()
