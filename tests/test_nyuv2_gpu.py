"""The recipe for a GPU: its values, its hashes, a dry run of it, and one step at its full size."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.rows import ours
from engine import train
from engine.cli import load_config
from engine.config import Config
from engine.experiment import open_experiment
from engine.identity import stage_identity, weights_identity
from engine.named import config_file
from engine.resume import differences
from engine.rundir import RunDir
from engine.training import pace

FRAMES, HW = 40, (480, 640)
"""A frame for each block, of NYU Depth v2's size."""


def recipe(**sections: Any) -> Config:
    return load_config([config_file("nyuv2_gpu")], sections)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames in stripes, one of each class; colour and depth tell the class."""
    root = tmp_path_factory.mktemp("rooms")
    label_HW = (13 * np.arange(HW[1]) // HW[1]).astype(np.uint8)[None].repeat(HW[0], axis=0)
    depth_HW = 800 + 500 * label_HW.astype(np.uint16)
    for kind in ("image", "depth", "label"):
        (root / "train" / kind).mkdir(parents=True)
    for number in range(FRAMES):
        image_HW3 = (label_HW[..., None] * np.array([13, 7, 11]) + number).astype(np.uint8)
        for kind, pixels in (("image", image_HW3), ("depth", depth_HW), ("label", label_HW)):
            Image.fromarray(pixels).save(root / "train" / kind / f"{number:03d}.png")
    return root


def test_it_is_the_published_experiment_on_honest_folds_with_levers_that_cost_no_time() -> None:
    published = load_config([config_file("exp093_5")])
    assert differences(published, recipe()) == [
        "data.fold_kind: random -> blocked",
        "data.scale_limit: 0.2 -> 0.25",
        "data.scale_p: 0.5 -> 1.0",
        "model.drop_path: 0.0 -> 0.2",
        "training.layer_decay: 1.0 -> 0.97",
        "training.weight_decay: 0.0001 -> 0.05",
        "training.schedule: cosine_epoch -> warmup_cosine",
        "training.clip_norm: 0.0 -> 1.0",
        "training.ema_warmup: False -> True",
        "training.validate_every: 1 -> 5",
        "inference.scales: (0.5, 0.75, 1.0, 1.25, 1.5) -> (0.75, 1.0, 1.25)",
        "inference.base_hw: own -> training",
    ]


def test_its_file_says_that_nothing_of_it_was_measured() -> None:
    text = config_file("nyuv2_gpu").read_text(encoding="utf-8")
    told = " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
    assert "Not measured: this project has run it on no GPU, has no score of it" in told
    assert "chose no value by measurement at this size" in told


def test_a_run_of_it_is_told_by_the_same_hashes_ever_after(tmp_path: Path) -> None:
    weights = weights_identity(recipe(), RunDir(tmp_path), "abc", [0, 1, 2])
    stage = stage_identity(recipe(), weights, "x")
    assert (weights[:16], stage[:16]) == ("2d9d9312a2f677a6", "617911bbb3eed105")


def test_a_dry_run_of_it_finds_nothing_to_refuse(
    rooms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    # Steps of four crops take a minute each on two cores; one of one crop is taken below.
    monkeypatch.setattr(pace, "measure", lambda *_: pace.Pace(1.0, 1, 1.0, 1.0, 1, None))
    words = ["nyuv2_gpu", str(rooms), "model.weights=none", "--out", str(tmp_path / "run")]
    assert train.main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "5 blocked; to train: 0 (32 frames, 8 to validate)" in told
    assert "720 x 960, crop 576 x 768, batch 4" in told
    assert "convnext_base + fpn, " in told
    assert "6 of a frame: " in told


def test_one_step_at_full_size_trains_the_real_network(rooms: Path, tmp_path: Path) -> None:
    """Of one crop: a step of four takes four times the memory and time."""
    config = recipe(
        data={"root": str(rooms)},
        model={"weights": "none"},  # those of timm's hub are not here
        training={"batch_size": 1},
        runtime={"device": "cpu", "precision": "fp32", "cache": str(tmp_path / "cache")},
    )
    run = open_experiment(config, RunDir(tmp_path / "run"))
    fold, batch = ours.begin(run), ours.first_batch(run)
    network, average = fold.learner.network, fold.learner.ema.network
    assert batch.image_BCHW.shape == (1, 4, 576, 768)
    assert sum(part.numel() for part in network.encoder.parameters()) > 87e6
    assert len({group["rate"] for group in fold.learner.optimizer.param_groups}) == 41
    before = copy.deepcopy(network.state_dict())
    ours.timed_steps(fold, batch, 1)
    losses = fold.learner.sums.means()
    assert math.isfinite(losses.loss)
    assert losses.segmentation_loss > 0
    assert losses.depth_loss > 0
    still, unlike = unmoved(network, before), unmoved(average, before)
    # Paths that are dropped hand no gradient on; what they skip only decays.
    assert not any("weight" in name or "gamma" in name for name in still), still
    assert len(still) < len(before) / 4
    assert still == unlike, "the average follows"


def unmoved(network: nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    now = network.state_dict()
    return [name for name, value in before.items() if torch.equal(now[name], value)]
