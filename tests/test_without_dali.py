"""Everything runs where DALI is not: elsewhere than on Linux x86-64, or without the package."""

import logging
import sys
from pathlib import Path

import pytest

from engine import train
from engine.rundir import RunDir


def test_a_fold_is_trained_from_files_without_dali(
    tiny_toml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # importing it fails from now on
    run = RunDir(tmp_path / "run")
    arguments = ["--config", str(tiny_toml), "--out", str(run.root), "--training.epochs", "1"]
    # Frames that memory may not hold are read for each batch: by DALI, if there is one.
    arguments += ["--folds", "0", "--runtime.source", "auto", "--runtime.memory_gib", "1e-6"]
    with caplog.at_level(logging.INFO, logger="engine"):
        assert train.main(arguments) == 0
    assert "DALI cannot be imported" in caplog.text
    assert run.best(0).exists()
