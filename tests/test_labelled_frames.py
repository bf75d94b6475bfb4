"""Labelled test frames score the submission, whenever their labels come."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine import train
from engine.config import Config
from engine.nyuv2 import CLASSES
from engine.rundir import RunDir


def test_the_submission_is_scored_on_the_labels_that_there_are(
    copied_run: RunDir,
    tiny_config: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO, logger="engine")
    data, masks_NHW = tmp_path / "data", np.load(copied_run.submission)
    shutil.copytree(tiny_config.data.root, data)
    folder = data / "test" / "label"
    folder.mkdir()
    # The first frame is right but for a row of one other class, the second is right.
    truth_NHW = masks_NHW[:2].copy()
    truth_NHW[0, 0] = (masks_NHW[0, 0] + 1) % 13
    truth_NHW[0, 1] = 255
    for stem, truth_HW in zip(("000", "001"), truth_NHW, strict=True):
        Image.fromarray(truth_HW).save(folder / f"{stem}.png")
    arguments = ["--config", str(copied_run.config), "--data.root", str(data)]
    arguments += ["--out", str(copied_run.root)]

    def summary() -> dict[str, Any]:
        assert train.main(arguments) == 0
        content: dict[str, Any] = json.loads(copied_run.summary.read_text("utf-8"))
        return content

    found = summary()
    counted = truth_NHW != 255
    right = (truth_NHW == masks_NHW[:2])[counted].mean()
    assert found["test"]["pixel_acc"] == pytest.approx(right)
    assert found["test"]["frames"] == 2
    for value, name in enumerate(CLASSES):
        both = (truth_NHW == value) & (masks_NHW[:2] == value)
        either = ((truth_NHW == value) | (masks_NHW[:2] == value)) & counted
        expected = None if not either.any() else pytest.approx(both.sum() / either.sum())
        assert found["test"]["iou"][name] == expected
    told = f"submission on 2 labelled test frames: mIoU {found['test']['miou']:.4f}"
    assert told in caplog.text
    shown = capsys.readouterr().out  # in lines as narrow as the table
    assert "2 labelled" in shown
    assert f"{found['test']['miou']:.4f}" in shown

    (folder / "001.png").unlink()
    assert summary()["test"]["frames"] == 1
    shutil.rmtree(folder)
    assert summary().get("test") is None


def test_a_submission_that_was_lost_is_made_again(copied_run: RunDir) -> None:
    before = copied_run.submission.read_bytes()
    copied_run.submission.unlink()
    arguments = ["--config", str(copied_run.config), "--out", str(copied_run.root)]
    assert train.main(arguments) == 0
    assert copied_run.submission.read_bytes() == before
