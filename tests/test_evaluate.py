"""Scores of a finished run on labelled frames of other folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine import evaluate
from engine.config import Config
from engine.frames.index import DatasetError
from engine.frames.pack import pack_dataset
from engine.mistakes import ConfigError
from engine.nyuv2 import CLASSES
from engine.report.evaluation import Evaluation
from engine.rundir import RunDir
from kernels.metrics import class_iou, mean_iou, pixel_accuracy

FinishedRun = Any  # defined in conftest.py, which cannot be imported


@pytest.fixture
def labelled(tiny_config: Config, finished_run: FinishedRun, tmp_path: Path) -> Path:
    """The test frames, of which three have labels: right, a row wrong, half unlabelled."""
    data = tmp_path / "data"
    shutil.copytree(Path(tiny_config.data.root) / "test", data)
    (data / "label").mkdir()
    truth_NHW = np.load(finished_run.dir.submission)[:3].copy()
    truth_NHW[1, 0] = (truth_NHW[1, 0] + 1) % 13
    truth_NHW[2, :24] = 255
    for n, truth_HW in enumerate(truth_NHW):
        Image.fromarray(truth_HW).save(data / "label" / f"{n:03d}.png")
    return data


def run(*arguments: object) -> None:
    assert evaluate.main(list(map(str, arguments))) == 0


def read(folder: Path) -> Evaluation:
    return Evaluation.read(RunDir(folder).evaluation)


def test_a_dataset_in_shards_is_scored_like_its_folder(
    finished_run: FinishedRun,
    tiny_config: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="engine")
    root, shards = Path(tiny_config.data.root), tmp_path / "shards"
    pack_dataset(root, shards, shard_bytes=20_000)
    found = []
    for number, data in enumerate((root, shards)):
        run(finished_run.dir.root, data, "--out", tmp_path / f"out{number}")
        found.append(
            read(tmp_path / f"out{number}").model_dump(
                exclude={"data": True, "atlas": {"elapsed_s"}}
            )
        )
    assert found[0] == found[1]
    frames = len([*(root / "train" / "image").iterdir()])
    assert f"scored are the {frames} frames of train in shards" in caplog.text


def test_figures_are_those_of_the_masks_and_labels(
    finished_run: FinishedRun,
    labelled: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO", logger="engine")
    out, root = tmp_path / "out", finished_run.dir.root
    run(root, labelled, "--out", out)
    found, masks_NHW = read(out), np.load(finished_run.dir.submission)[:3]
    count_NCC = np.zeros((3, 13, 13), np.int64)
    for n in range(3):
        label_HW = np.array(Image.open(labelled / "label" / f"{n:03d}.png"))
        known_HW = label_HW != 255
        np.add.at(count_NCC[n], (label_HW[known_HW], masks_NHW[n][known_HW]), 1)
    count_CC = count_NCC.sum(axis=0)
    assert np.array_equal(np.load(out / "frames.npy"), count_NCC)
    assert found.confusion == count_CC.tolist()
    assert found.miou.value == pytest.approx(mean_iou(count_CC))
    assert found.pixel_acc.value == pytest.approx(pixel_accuracy(count_CC))
    for name, iou in zip(CLASSES, class_iou(count_CC), strict=True):
        interval = found.iou[name]
        assert (interval is None) == bool(np.isnan(iou))
        assert interval is None or interval.value == pytest.approx(iou)
    assert found.stems == ["000", "001", "002"]
    assert (found.miou.groups, found.miou.groups_of) == (1, "block")
    assert found.atlas.worst_frames[0].stem == "001"
    assert found.atlas.worst_frames[0].fold is None
    assert found.seen.frames == 0
    assert (found.subject.runs, found.data) == ([str(root)], str(labelled))
    assert found.subject.temperatures == [finished_run.summary["oof"]["temperature"]]
    assert "labels of 3 of 5 frames; they are scored" in caplog.text
    assert "not held out" not in caplog.text
    shown = capsys.readouterr().out
    assert f"{found.miou.value:.4f}" in shown
    with Image.open(out / "worst.png") as sheet:
        assert sheet.width == 1440


@pytest.mark.parametrize("flags", [(), ("--tile", "64,64", "--size", "96,128")])
def test_calibration_is_that_of_the_probabilities_at_the_sampled_pixels(
    flags: tuple[str, ...], finished_run: FinishedRun, labelled: Path, tmp_path: Path
) -> None:
    from engine import predict

    root = finished_run.dir.root
    run(root, labelled, *flags, "--out", tmp_path / "out")
    found = read(tmp_path / "out").calibration
    assert found is not None
    saved = ("--save", "probabilities", "--out", tmp_path / "prob")
    assert predict.main([str(word) for word in (root, labelled / "image", *flags, *saved)]) == 0
    losses = []
    for n in range(3):
        label_HW = np.array(Image.open(labelled / "label" / f"{n:03d}.png"))[4::8, 4::8]
        prob_CHW = np.load(tmp_path / "prob" / "probabilities" / f"{n:03d}.npy")[:, 4::8, 4::8]
        rows, columns = np.nonzero(label_HW != 255)
        losses.append(-np.log(prob_CHW[label_HW[rows, columns], rows, columns].astype(float)))
    loss = np.concatenate(losses)
    assert found.pixels == len(loss)
    assert found.temperatures[0].nll == pytest.approx(loss.mean(), rel=1e-3)


def test_frames_that_networks_were_trained_on_are_counted_whatever_they_are_called(
    copied_run: RunDir,
    tiny_config: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = tmp_path / "set"
    shutil.copytree(tiny_config.data.root, data)
    (data / "train" / "image" / "003.png").rename(data / "train" / "image" / "new.png")
    (data / "train" / "label" / "003.png").rename(data / "train" / "label" / "new.png")
    (data / "train" / "depth" / "003.png").rename(data / "train" / "depth" / "new.png")
    run(copied_run.root, data)
    evaluation = read(copied_run.root / "evaluations" / "set-train")
    assert evaluation.seen.frames == len(evaluation.stems) == 12
    assert "12 of 12 frames are not held out" in caplog.text
    caplog.clear()
    run(copied_run.root, data, "--fold", "0", "--out", tmp_path / "one")
    held_out = json.loads(copied_run.folds.read_text("utf-8"))["fold_of"]
    count = sum(fold != 0 for fold in held_out.values())
    assert read(tmp_path / "one").seen.frames == count
    assert read(tmp_path / "one").subject.fold == 0


def test_what_nobody_can_know_of_the_training_frames_is_said(
    copied_run: RunDir, labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied_run.folds.unlink()
    run(copied_run.root, labelled, "--out", tmp_path / "out")
    assert read(tmp_path / "out").seen.unknown == [str(copied_run.root)]
    assert "is not known: its training images are not where they were" in caplog.text


def test_of_a_dataset_the_labelled_test_frames_are_taken_and_scenes_group_them(
    finished_run: FinishedRun, labelled: Path, tmp_path: Path
) -> None:
    data = tmp_path / "dataset"
    shutil.copytree(labelled, data / "test")
    rows = ["stem,scene", *(f"{n:03d},{'ab'[n // 2]}" for n in range(3))]
    (data / "scenes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    run(finished_run.dir.root, data, "--out", tmp_path / "out")
    found = read(tmp_path / "out")
    assert found.data == str(data / "test")
    assert (found.miou.groups, found.miou.groups_of) == (2, "scene")


def test_several_runs_are_scored_together(
    finished_run: FinishedRun, rgbd_run: RunDir, labelled: Path, tmp_path: Path
) -> None:
    run(finished_run.dir.root, rgbd_run.root, labelled, "--out", tmp_path / "out")
    found = read(tmp_path / "out")
    assert len(found.subject.runs) == len(found.subject.temperatures) == 2
    assert found.calibration is not None
    assert 0 < found.miou.value < 1


def test_a_folder_without_labels_or_with_other_classes_is_refused(
    finished_run: FinishedRun, tiny_config: Config, labelled: Path, tmp_path: Path
) -> None:
    root = finished_run.dir.root
    with pytest.raises(ConfigError, match="holds no labelled frames; give a folder with image and"):
        run(root, tmp_path / "none")
    with pytest.raises(ConfigError, match="DATA is missing; type python -m engine.evaluate RUN"):
        run(root)
    Image.fromarray(np.full((48, 64), 40, np.uint8)).save(labelled / "label" / "000.png")
    with pytest.raises(DatasetError, match=r"000\.png: found label 40 in 3072 pixels"):
        run(root, labelled, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
