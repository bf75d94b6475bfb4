"""The command that says whether an experiment fits, on an experiment that does."""

import json
from pathlib import Path

import pytest
from torch import Tensor

from benchmarks import full_size
from benchmarks.rows import ours
from engine.experiment import Experiment
from engine.training.loop import FoldTraining


@pytest.mark.parametrize("decoder", ["fpn", "deeplabv3plus"])
def test_a_step_and_the_views_of_a_frame_are_measured(
    decoder: str,
    tiny_toml: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments, all_views = [], ours.all_views

    def watched(run: Experiment, fold: FoldTraining) -> Tensor:
        moments.append(len(fold.learner.optimizer.state))
        return all_views(run, fold)

    monkeypatch.setattr(ours, "all_views", watched)
    out = tmp_path / "figures.json"
    arguments = ["--config", str(tiny_toml), "--json", str(out), "--model.decoder", decoder]
    assert full_size.main(arguments) == 0
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert row["batch"] == [2, 3, 32, 64]
    assert row["loss"] > row["segmentation_loss"] > 0
    assert row["views"] == 4
    assert row["probabilities"] == [1, 2, 13, 48, 64]
    assert row["peak_mib"] >= row["step_mib"] > 0
    assert "step_s" in capsys.readouterr().out
    assert moments == [0], "the step's moments take memory from the views"
