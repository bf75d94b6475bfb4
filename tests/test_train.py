"""The whole command on twelve frames: its files, its refusals, its stops and resumptions."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine import train
from engine.cli import load_config
from engine.command import run_main
from engine.config import Config
from engine.mistakes import ConfigError
from engine.report.show import show
from engine.report.verify import verify
from engine.rundir import FOR_PEOPLE, RunDir
from engine.sums import sum_file
from engine.views.store import open_store

ROOT = Path(__file__).resolve().parent.parent

ReadRun = Callable[[Path], dict[str, Any]]
FinishedRun = Any  # defined in conftest.py, which cannot be imported


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def exit_code(*arguments: object) -> int:
    """What the command would end with; it runs in this process."""
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: train.main(list(map(str, arguments))))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def mtimes(folder: Path) -> dict[Path, int]:
    """But for the log, to which every call appends."""
    files = (path for path in folder.rglob("*") if path.name != "log.txt")
    return {path: path.stat().st_mtime_ns for path in files}


FOLD_FILES = ("best.safetensors", "environment.json", "metrics.jsonl", "runtime.json")


def test_a_run_holds_every_file_and_no_other(finished_run: FinishedRun) -> None:
    root = finished_run.dir.root
    found = {path for path in root.rglob("*") if path.is_file()}
    for_people = {path for path in found if path.name in FOR_PEOPLE}
    assert sorted(path.name for path in for_people) == ["log.txt", "metrics.csv"]
    found -= for_people
    files = sorted(str(path.relative_to(root)) for path in found if path.suffix != ".sum")
    assert {sum_file(root / name) for name in files} == found - {root / name for name in files}
    assert files == [
        *("atlas.json", "config.toml", "environment.json"),
        *(f"fold{k}/{n}" for k in (0, 1) for n in FOLD_FILES),
        *("folds.json", "frames.npy", "oof/manifest.json", "oof/prob.npy", "parity.json"),
        *("seal.json", "submission.csv", "submission.npy", "submission.zip"),
        *("summary.json", "temperature.json", "worst.png"),
    ]


def test_the_config_is_the_resolved_one(finished_run: FinishedRun, tiny_config: Config) -> None:
    assert load_config([finished_run.dir.config]) == tiny_config


def test_the_folds_and_the_environment_are_told(finished_run: FinishedRun) -> None:
    folds = read(finished_run.dir.folds)
    assert folds["kind"] == "blocked"
    assert folds["leakage"] == finished_run.summary["leakage"] == pytest.approx(2 / 12)
    environment = read(finished_run.dir.environment)
    assert len(environment["dataset_fingerprint"]) == 64
    assert torch.__version__.startswith(environment["versions"]["torch"])


def test_the_store_holds_a_probability_of_every_training_frame(finished_run: FinishedRun) -> None:
    store = open_store(finished_run.dir.oof)
    assert store.prob_NChw.shape == (12, 13, 24, 32)
    assert store.prob_NChw.dtype == np.float16
    np.testing.assert_allclose(store.prob_NChw.astype(np.float32).sum(1), 1, atol=5e-3)
    assert list(store.manifest.stems) == [f"{i:03d}" for i in range(12)]
    assert sorted(store.manifest.folds) == [0] * 6 + [1] * 6
    assert store.manifest.classes == load_config([]).data.classes


def test_the_submission_has_a_mask_of_every_test_frame(finished_run: FinishedRun) -> None:
    masks = np.load(finished_run.dir.submission)
    assert (masks.shape, masks.dtype) == ((5, 48, 64), np.uint8)
    assert masks.max() < 13
    with zipfile.ZipFile(finished_run.dir.submission_zip) as archive:
        assert archive.namelist() == ["submission.npy"]
        assert archive.read("submission.npy") == finished_run.dir.submission.read_bytes()


def test_the_summary_adds_up(finished_run: FinishedRun) -> None:
    summary = finished_run.summary
    assert {"oof", "folds", "seconds", "leakage", "peak_memory_mib"} <= set(summary)
    assert set(summary["oof"]) == {"miou", "pixel_acc", "temperature", "iou", "confusion"}
    choice = read(finished_run.dir.temperature)
    assert [score["temperature"] for score in choice["scores"]] == [0.7, 1.0]
    best = max(choice["scores"], key=lambda score: float(score["miou"]))
    assert choice["best"] == best["temperature"] == summary["oof"]["temperature"]
    assert summary["oof"]["miou"] == best["miou"]
    count_CC = np.array(summary["oof"]["confusion"])
    # Every labelled pixel of the twelve frames is counted once: about nine tenths of them.
    assert 0.85 < count_CC.sum() / (12 * 48 * 64) < 0.95
    assert summary["oof"]["pixel_acc"] == pytest.approx(np.trace(count_CC) / count_CC.sum())
    assert [fold["fold"] for fold in summary["folds"]] == [0, 1]
    seconds = summary["seconds"]
    assert " ".join(seconds) == "prepare training validation oof submission atlas compiling total"
    assert seconds["total"] == pytest.approx(sum(seconds.values()) / 2)
    assert summary["peak_memory_mib"] > 50


def test_the_user_is_told_what_runs_and_how_far_it_is(finished_run: FinishedRun) -> None:
    for words in (
        *("12 training and 5 test frames; blocked folds, leakage 16.7 %", "device cpu"),
        *("fold  epoch", "   0   1/2", "   1   2/2", "data source: torch", "OOF mIoU"),
    ):
        assert words in finished_run.stdout, words
    assert finished_run.stderr == ""


def test_a_second_call_says_it_is_complete_and_changes_nothing(
    finished_run: FinishedRun, tiny_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mtimes(finished_run.dir.root)
    assert exit_code("--config", tiny_toml, "--out", finished_run.dir.root) == 0
    assert mtimes(finished_run.dir.root) == before
    shown = capsys.readouterr().out
    assert "is complete; nothing to do" in shown
    assert f"{finished_run.summary['oof']['miou']:.4f}" in shown


def test_one_fold_and_then_the_rest_equal_one_call(
    finished_run: FinishedRun,
    tiny_toml: Path,
    tmp_path: Path,
    read_run: ReadRun,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--config", tiny_toml, "--out", tmp_path)
    assert exit_code(*arguments, "--folds", 1) == 0
    assert "folds 0 remain: run the same command without --folds" in capsys.readouterr().out
    assert not (tmp_path / "fold0").exists()
    assert not (tmp_path / "summary.json").exists()
    before = mtimes(tmp_path / "fold1")
    assert exit_code(*arguments) == 0
    kept = {path: time for path, time in before.items() if "last.pt" not in path.name}
    assert mtimes(tmp_path / "fold1") == kept, "a trained fold is not trained again"
    assert read_run(tmp_path) == read_run(finished_run.dir.root)


def test_a_run_that_is_named_alone_is_completed_by_its_own_config(
    copied_run: RunDir, finished_run: FinishedRun, read_run: ReadRun
) -> None:
    for path in (copied_run.temperature, copied_run.summary, copied_run.manifest):
        path.unlink()
    # As `to_complete` has the user type it.
    assert train.main(["--out", str(copied_run.root), "--resume"]) == 0
    assert read_run(copied_run.root) == read_run(finished_run.dir.root)
    with pytest.raises(ConfigError, match=r"holds another experiment.*\n  training\.lr: 0\.01 -> "):
        train.main(["--out", str(copied_run.root), "--training.lr", "0.5"])


def test_another_experiment_in_the_same_folder_is_refused(
    finished_run: FinishedRun, tiny_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mtimes(finished_run.dir.root)
    arguments = ("--config", tiny_toml, "--out", finished_run.dir.root, "--training.lr", 0.5)
    assert exit_code(*arguments, "--no-inference.flip") == 2
    assert capsys.readouterr().err == (
        f"error: {finished_run.dir.root} holds another experiment; choose another --out, or undo:\n"
        "  training.lr: 0.01 -> 0.5\n"
        "  inference.flip: True -> False\n"
    )
    assert mtimes(finished_run.dir.root) == before


def test_another_dataset_in_the_same_folder_is_refused(
    copied_run: RunDir, tiny_config: Config, tiny_toml: Path, tmp_path: Path, read_run: ReadRun
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_config.data.root, data)
    shutil.copy(data / "test" / "image" / "000.png", data / "test" / "image" / "001.png")
    before = read_run(copied_run.root)
    arguments = ("--config", tiny_toml, "--out", copied_run.root, "--data.root", data)
    with pytest.raises(
        RuntimeError, match=r"best\.safetensors was written by another config or dataset"
    ):
        train.main(list(map(str, arguments)))
    assert read_run(copied_run.root) == before


def test_a_faulty_dataset_is_refused_before_anything_is_written(
    tiny_config: Config, tiny_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_config.data.root, data)
    (data / "train" / "label" / "003.png").write_bytes(b"")
    (data / "test" / "image" / "004.png").write_text("no picture", encoding="utf-8")
    out = tmp_path / "run"
    assert exit_code("--config", tiny_toml, "--out", out, "--data.root", data) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: 2 faults in {data}:\n")
    assert "train/label/003.png" in shown
    assert "test/image/004.png" in shown
    assert not out.exists()


def test_a_stopped_fold_goes_on_only_when_asked_to(
    tiny_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--config", str(tiny_toml), "--out", str(tmp_path), "--folds", "0"]
    with monkeypatch.context() as patch:

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("engine.training.loop.FoldTraining.validate", stop)
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments)
    assert (tmp_path / "fold0" / "last.pt").exists()
    with pytest.raises(ConfigError, match=r"fold 0 of .* was stopped in epoch 1 of 2; --resume"):
        train.main(arguments)
    assert train.main([*arguments, "--resume"]) == 0


@pytest.mark.parametrize("name", ["fold1/metrics.jsonl", "fold0/best.safetensors", "oof/prob.npy"])
def test_a_damaged_file_of_an_unfinished_run_is_named(
    name: str, copied_run: RunDir, tiny_toml: Path
) -> None:
    copied_run.summary.unlink()
    path = copied_run.root / name
    path.write_bytes(path.read_bytes()[:200])
    if name == "fold0/best.safetensors":
        shutil.rmtree(copied_run.oof)  # else its weights are not needed for the out-of-fold part
    with pytest.raises((RuntimeError, ValueError), match=str(path)):
        train.main(["--config", str(tiny_toml), "--out", str(copied_run.root)])


def test_a_store_of_other_weights_is_refused(copied_run: RunDir, tiny_toml: Path) -> None:
    for name in ("best.safetensors", ".best.safetensors.sum"):
        shutil.copy(copied_run.fold(1) / name, copied_run.fold(0) / name)
    with pytest.raises(ValueError, match="was made from other weights, data or settings"):
        train.main(["--config", str(tiny_toml), "--out", str(copied_run.root)])


def test_without_test_frames_there_is_a_summary_and_no_submission(rgbd_run: RunDir) -> None:
    summary = read(rgbd_run.summary)
    assert "submission" not in summary["seconds"]
    assert not rgbd_run.submission.exists()
    assert not rgbd_run.submission_zip.exists()


def test_a_summary_says_where_training_and_inference_see_another_zoom(
    rgbd_run: RunDir, finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(rgbd_run.summary)["zoom_gap"] == {
        "frames": 12,
        "frame_hw": [48, 64],
        "training_hw": [96, 128],
        "view_hw": [32, 64],
    }
    show(rgbd_run)
    assert "zooms differ for 12 training frames: 48 x 64 is 96 x 128" in capsys.readouterr().out
    # 32 rows for 48 are the rounding.
    assert "zoom_gap" not in finished_run.summary
    assert "zooms differ" not in finished_run.stdout + finished_run.stderr


def test_depth_as_input_is_a_fourth_channel(rgbd_run: RunDir, finished_run: FinishedRun) -> None:
    def stem_channels(run: RunDir) -> int:
        return int(load_file(run.best(0))["encoder.model.conv_stem.weight"].shape[1])

    assert stem_channels(rgbd_run) == 4
    assert stem_channels(finished_run.dir) == 3


def run_killed(moments: Sequence[list[Any] | None], *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "tests/killing.py", json.dumps(moments), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Each call takes seconds: a few moments for all kinds of files, or all of them.
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.full)])
def test_killed_in_every_stage_a_run_ends_with_the_same_bytes(
    few: bool, finished_run: FinishedRun, tiny_toml: Path, tmp_path: Path, read_run: ReadRun
) -> None:
    rng = random.Random(0)
    moments: list[list[Any]] = [
        ["step", rng.randint(1, 5)],  # within an epoch of fold 0
        ["write last.pt", 1],  # half a checkpoint on disk
        ["fold 1", 1],  # between the folds
        ["step", rng.randint(1, 5)],  # within an epoch of fold 1
        ["write best.safetensors", 1],
        ["pwrite", rng.randint(1, 20)],  # out-of-fold prediction: 12 frames, 2 temperatures
        ["unlink", 1],  # the store is finished, but not tidied up
        ["write .submission.json", rng.randint(1, 3)],  # prediction of the test frames
        ["write atlas.json", 1],
    ]
    if few:
        kept = ("write last.pt", "write best.safetensors", "pwrite", "write .submission.json")
        moments = [moments[0], *(moment for moment in moments if moment[0] in kept)]
    run_killed([*moments, None], "--config", tiny_toml, "--out", tmp_path)
    assert read_run(tmp_path) == read_run(finished_run.dir.root)
    assert {verdict.state for verdict in verify(tmp_path)} == {"sound"}


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.full)])
def test_on_a_disk_that_is_full_nothing_is_lost_and_one_line_says_so(
    few: bool, finished_run: FinishedRun, tiny_toml: Path, tmp_path: Path, read_run: ReadRun
) -> None:
    moments = [
        ("write environment.json", 1),
        ("step", 3),
        ("write last.pt", 2),
        ("renamed best.safetensors", 1),
        ("write metrics.jsonl", 1),
        ("pwrite", 4),
        ("write progress.json", 2),
        ("renamed temperature.json", 1),
        ("write .submission.json", 2),
        ("renamed submission.zip", 1),
        ("renamed frames.npy", 1),
    ]
    if few:
        moments = moments[1:3] + moments[5::3]
    calls = [[*moment, "full"] for moment in moments]
    told = run_killed([*calls, None], "--config", tiny_toml, "--out", tmp_path)
    assert read_run(tmp_path) == read_run(finished_run.dir.root)
    assert {verdict.state for verdict in verify(tmp_path)} == {"sound"}
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(calls)
    why = rf"error: {tmp_path}\S* is full \(File too large\): \S+ needs [\d.]+ .iB.* are free\. "
    for line in errors:
        assert re.match(why + "Nothing is lost: .* run the same command again", line), line
