"""The whole command on weights that were trained elsewhere: `training.epochs = 0`."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import train
from engine.rundir import RunDir

FinishedRun = Any  # defined in conftest.py, which cannot be imported


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def arguments(toml: Path, out: Path, weights: object, *more: str) -> list[str]:
    given = ["--config", str(toml), "--out", str(out), "--training.epochs", "0"]
    return [*given, "--model.weights", str(weights), *more]


def test_given_weights_predict_what_the_run_they_come_from_did(
    finished_run: FinishedRun, tiny_toml: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = finished_run.dir.root / "fold{fold}" / "best.safetensors"
    assert train.main(arguments(tiny_toml, tmp_path, weights)) == 0
    run = RunDir(tmp_path)
    summary = read(run.summary)
    assert summary["oof"] == finished_run.summary["oof"]
    assert np.array_equal(np.load(run.submission), np.load(finished_run.dir.submission))
    for mine, theirs in zip(summary["folds"], finished_run.summary["folds"], strict=True):
        assert mine["best_epoch"] == 0
        assert mine["validation_miou"] == theirs["validation_miou"]
    assert summary["seconds"]["training"] == 0
    assert "whether they were trained on those frames cannot be told here" in caplog.text
    # Done once, it is done.
    before = run.best(0).stat().st_mtime_ns
    assert train.main(arguments(tiny_toml, tmp_path, weights)) == 0
    assert run.best(0).stat().st_mtime_ns == before


def test_given_weights_predict_with_other_views_too(
    finished_run: FinishedRun, tiny_toml: Path, tmp_path: Path
) -> None:
    weights = finished_run.dir.root / "fold{fold}" / "best.safetensors"
    views = ("--inference.scales", "[1]", "--inference.temperatures", "[0.7]")
    assert train.main(arguments(tiny_toml, tmp_path, weights, *views)) == 0
    assert read(RunDir(tmp_path).summary)["oof"]["temperature"] == 0.7


def test_a_missing_file_is_missed_before_any_fold_is_trained(
    finished_run: FinishedRun, tiny_toml: Path, tmp_path: Path
) -> None:
    shutil.copy(finished_run.dir.best(0), tmp_path / "0.safetensors")
    given = ["--config", str(tiny_toml), "--out", str(tmp_path / "run")]
    with pytest.raises(FileNotFoundError, match=r"1\.safetensors does not exist"):
        train.main([*given, "--model.weights", str(tmp_path / "{fold}.safetensors")])
    assert not (tmp_path / "run" / "fold0").exists()
