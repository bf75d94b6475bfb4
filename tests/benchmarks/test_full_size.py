"""The command that says whether an experiment fits, on an experiment that does."""

import json
from pathlib import Path

import pytest

from benchmarks import full_size


@pytest.mark.parametrize("decoder", ["fpn", "deeplabv3plus"])
def test_a_step_and_the_views_of_a_frame_are_measured(
    decoder: str, tiny_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
