"""`engine.train --dry-run` on twelve frames: what it tells and refuses; it makes nothing."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import train
from engine.config import Config
from engine.mistakes import ConfigError
from engine.model.network import build_network
from engine.rundir import RunDir
from engine.runtime.memory import PROBE_HW, pass_bytes, step_bytes

FinishedRun = Any  # defined in conftest.py, which cannot be imported


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that breaks no line."""
    monkeypatch.setenv("COLUMNS", "250")


def dry(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """The rows of the two tables by name."""
    capsys.readouterr()
    assert train.main([*words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines if "│" in line]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def test_sizes_and_measured_times_are_told_and_nothing_is_written(
    tiny_toml: Path, tmp_path: Path, wide: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    rows = dry(capsys, str(tiny_toml), "--out", str(out))
    assert not out.exists()
    assert rows["frames"] == "12 training, 5 test, 48 x 64 pixels"
    assert rows["folds"] == (
        "2 blocked; to train: 0 (6 frames, 6 to validate), 1 (6 frames, 6 to validate)"
    )
    assert rows["steps"] == "3 an epoch, 2 epochs a fold, 12 in all"
    assert rows["input"] == "48 x 64, crop 32 x 64, batch 2"
    assert rows["views"] == "4 of a frame: 32 x 32, 32 x 64, each mirrored too; 2 temperatures"
    assert re.search(r"[\d,]+ parameters, 3 channels in", rows["network"])
    assert re.match(r"step [\d.]+ MiB, a view [\d.]+ MiB, of [\d.]+ GiB", rows["memory, estimated"])
    assert "probabilities" in rows["disk, estimated"]
    assert re.fullmatch(r"[\d.]+ ms, median of 10 measured", rows["a step"])
    assert re.fullmatch(r"[\d.]+ ms by all views, of 6 measured", rows["a frame"])
    assert re.match(r"[\d.]+ s, by 10 steps and 6 frames", rows["time, estimated"])


@pytest.mark.gpu
def test_a_gpus_step_and_memory_are_measured(
    tiny_toml: Path, tmp_path: Path, wide: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = dry(capsys, str(tiny_toml), "--out", str(tmp_path), "--runtime.device", "cuda")
    assert re.fullmatch(r"[\d.]+ ms, median of 10 measured", rows["a step"])


def test_the_number_of_parameters_is_the_networks(
    tiny_toml: Path,
    tiny_config: Config,
    tmp_path: Path,
    wide: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = dry(capsys, str(tiny_toml), "--out", str(tmp_path / "run"))
    with torch.device("meta"):
        network = build_network(tiny_config.model, 13, initial_weights=False)
    count = sum(part.numel() for part in network.parameters())
    assert f" {count:,} parameters" in rows["network"]


def test_a_run_that_was_begun_stays_as_it_is_and_only_the_rest_is_told(
    copied_run: RunDir, tiny_toml: Path, wide: None, capsys: pytest.CaptureFixture[str]
) -> None:
    copied_run.summary.unlink()
    shutil.rmtree(copied_run.fold(1))
    before = contents(copied_run.root)
    rows = dry(capsys, str(tiny_toml), "--out", str(copied_run.root))
    assert contents(copied_run.root) == before
    assert rows["folds"] == "2 blocked; to train: 1 (6 frames, 6 to validate)"
    assert rows["steps"] == "3 an epoch, 2 epochs a fold, 6 in all"


def test_a_finished_run_is_complete(
    finished_run: FinishedRun, tiny_toml: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "engine.dry_run")
    root = finished_run.dir.root
    before = contents(root)
    assert train.main([str(tiny_toml), "--out", str(root), "--dry-run"]) == 0
    assert caplog.messages == [f"{root} is complete; nothing to do"]
    assert contents(root) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model.weights", "absent.pt"), "weights file absent.pt does not exist"),
        (("--data.fold_kind", "scene"), "no frame has a scene"),
        (("--inference.scales", "[1000]"), "holds no such view"),
        (("--training.batch_size", "1", "--data.crop_hw", "32,32"), "batch normalisation finds"),
        (("--folds", "7"), "--folds 7: data.folds = 2"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_whatever_training_refuses_is_refused(
    words: tuple[str, ...],
    told: str,
    tiny_toml: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for mode in ("--dry-run",), ():
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(told)):
            train.main([str(tiny_toml), "--out", str(tmp_path / "run"), *words, *mode])
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_experiment_is_refused(copied_run: RunDir, tiny_toml: Path) -> None:
    words = [str(tiny_toml), "--out", str(copied_run.root), "training.lr=0.5", "--dry-run"]
    with pytest.raises(ConfigError, match="holds another experiment"):
        train.main(words)


def test_without_epochs_only_views_are_measured(
    finished_run: FinishedRun,
    tiny_toml: Path,
    tmp_path: Path,
    wide: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = f"model.weights={finished_run.dir.root}/fold{{fold}}/best.safetensors"
    out = ("--out", str(tmp_path / "run"))
    rows = dry(capsys, str(tiny_toml), *out, "training.epochs=0", weights)
    assert "a step" not in rows
    assert "by views alone" in rows["time, estimated"]
    assert not (tmp_path / "run").exists()


def test_the_memory_of_a_step_grows_with_its_pixels_and_is_above_a_views(
    tiny_config: Config,
) -> None:
    with torch.device("meta"):
        network = build_network(tiny_config.model, 13, initial_weights=False)
    one, two = (step_bytes(network, 3, PROBE_HW, images) for images in (2, 4))
    assert one > pass_bytes(network, 3)
    assert two == pytest.approx(2 * one, rel=0.05)  # but for what weights take
