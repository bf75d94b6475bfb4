"""A call of training that ends early by request: what it leaves, and that no later byte tells."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import train
from engine.epochs import epochs_of
from engine.mistakes import ConfigError
from engine.rundir import RunDir
from tests.conftest import FinishedRun

ReadRun = Callable[[Path], dict[str, Any]]


def test_folds_apart_until_trained_and_then_a_finish_are_the_undisturbed_run(
    finished_run: FinishedRun,
    tiny_toml: Path,
    tmp_path: Path,
    read_run: ReadRun,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = RunDir(tmp_path / "run")
    call = ["--config", str(tiny_toml), "--out", str(run.root), "--resume"]
    logging.getLogger("engine").propagate = True
    with caplog.at_level(logging.INFO):
        assert train.main([*call, "--folds", "1", "--until", "trained"]) == 0
    assert not run.oof.exists()
    assert not run.results.path.exists()
    assert epochs_of(run, 1) == 2
    told = "fold 1 is trained; folds 0 and all that follows remain, as asked: complete it: "
    assert told + f"python -m engine.train --out {run.root} --resume" in caplog.text
    # One epoch, and no step more; asked for again it has nothing to do.
    for _ in range(2):
        assert train.main([*call, "--folds", "0", "--stop-after", "1"]) == 0
        assert epochs_of(run, 0) == 1
    assert "fold 0 has 1 of 2; folds 0 and all that follows remain" in caplog.text
    assert train.main([*call, "--until", "predicted"]) == 0
    assert run.temperature.exists()
    assert not run.submission.exists()
    assert not run.summary.exists()
    assert train.main(call) == 0
    assert read_run(run.root) == read_run(finished_run.dir.root)
    # A finished run stays finished.
    assert train.main([*call, "--until", "trained"]) == 0
    assert run.seal.exists()


@pytest.mark.parametrize("epochs", ["0", "-1"])
def test_a_number_of_epochs_that_is_none_is_told_in_a_line(epochs: str) -> None:
    with pytest.raises(ConfigError, match=f"--stop-after {epochs}: a number of epochs, at least 1"):
        train.main(["demo", f"--stop-after={epochs}"])
