"""The sample folder of the docs is a dataset as they describe it."""

from pathlib import Path

import pytest
from PIL import Image

from engine import prepare, train
from engine.rundir import RunDir

SAMPLE = Path(__file__).resolve().parent.parent / "docs" / "sample"


def test_it_has_no_fault_and_is_trained_on(
    tiny_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["check", str(SAMPLE)]) == 0
    assert "6" in capsys.readouterr().out
    run = RunDir(tmp_path / "run")
    arguments = ["--config", str(tiny_toml), "--data.root", str(SAMPLE), "--out", str(run.root)]
    assert train.main([*arguments, "--training.epochs", "1", "--data.fold_kind", "scene"]) == 0
    assert run.submission_zip.exists()


def test_it_is_small_and_its_labels_are_indices() -> None:
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 500_000
    labels = sorted(SAMPLE.glob("train/label/*"))
    assert len(labels) == 6
    for path in labels:
        with Image.open(path) as label:
            assert label.mode in ("L", "P")
