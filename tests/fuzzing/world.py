"""What is bent: a small data folder, its config and the finished run of it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import tests.quarter_encoder  # noqa: F401 - timm knows the encoder from then on
from engine import rehearsal, train
from engine.cli import load_config
from engine.model.network import build_network
from engine.runtime.memory import pass_bytes
from engine.views import predictor

CLASSES = ["floor", "wall", "chair", "lamp"]
HW = (32, 48)
TRAIN, TEST = 4, 2

# No epoch: the weights are those of a file, so that a run is made of checking, predicting and
# writing alone, in a third of a second.
CONFIG = {
    "format": 2,
    "data": {
        "classes": CLASSES,
        "small_classes": ["lamp"],
        "folds": 2,
        "fold_kind": "random",
        "input_hw": [32, 64],
        "crop_hw": [32, 32],
    },
    "model": {
        "encoder": "test_efficientnet_quarter",
        "input": "rgbd",
        "pyramid_channels": 8,
        "segmentation_channels": 32,
    },
    "training": {"epochs": 0, "batch_size": 2},
    "inference": {"scales": [1.0], "flip": False, "temperatures": [0.5, 1.0], "base_hw": [32, 64]},
    "runtime": {"workers": 1, "threads": 1, "source": "torch", "device": "cpu"},
}


@dataclass(frozen=True)
class World:
    """The sound originals, which nobody may change."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def config(self) -> Path:
        return self.root / "sound.toml"

    @property
    def run(self) -> Path:
        return self.root / "run"


def make_world(root: Path) -> World:
    """Write the originals below `root`."""
    world = World(root)
    _write_frames(world.data)
    weights, config = root / "weights.safetensors", dict(CONFIG)
    config["data"] = {**CONFIG["data"], "root": str(world.data)}  # type: ignore[dict-item]
    config["model"] = {**CONFIG["model"], "weights": str(weights)}  # type: ignore[dict-item]
    config["runtime"] = {**CONFIG["runtime"], "cache": str(root / "cache")}  # type: ignore[dict-item]
    world.config.write_text(tomli_w.dumps(config), "utf-8")
    torch.manual_seed(0)
    model = load_config([world.config]).model
    network = build_network(model, len(CLASSES), initial_weights=False)
    # Random weights of this size say one class everywhere.
    torch.nn.init.normal_(list(network.parameters())[-2], std=0.5)
    save_file({name: part.contiguous() for name, part in network.state_dict().items()}, weights)
    assert train.main(["--config", str(world.config), "--out", str(world.run)]) == 0
    return world


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Leave out of a run what takes most of it and decides nothing here.

    The memory of a pass is counted once for a network of a size, and no file waits for the disk:
    nobody kills these runs.
    """
    patch.setattr(os, "fsync", lambda _: None)
    known: dict[tuple[int, int], int] = {}

    def remembered(network: nn.Module, in_channels: int) -> int:
        key = sum(parameter.numel() for parameter in network.parameters()), in_channels
        known[key] = known.get(key) or pass_bytes(network, in_channels)
        return known[key]

    for module in (predictor, rehearsal):
        patch.setattr(module, "pass_bytes", remembered)


def fresh(source: Path, target: Path) -> Path:
    """A copy of a folder, in place of what was there."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def _write_frames(root: Path) -> None:
    rng = np.random.default_rng(5)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for number in range(count):
            label = np.zeros(HW, np.uint8)
            for value in rng.integers(0, 4, 5):
                top, left = rng.integers(0, 24), rng.integers(0, 40)
                label[top : top + 12, left : left + 16] = value
            noise = rng.integers(0, 40, (*HW, 3))
            image = (label[..., None] * np.array([50, 30, 60]) + noise).astype(np.uint8)
            depth = 700 + 600 * label.astype(np.uint16) + rng.integers(0, 300, HW, np.uint16)
            stem, jpeg = f"f{number:02d}", number % 2
            parts = {"image": image, "depth": depth, "label": label}
            for kind in ("image", "depth", "label")[: 3 if split == "train" else 2]:
                suffix = "jpg" if jpeg and kind == "image" else "png"
                path = root / split / kind / f"{stem}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(parts[kind]).save(path)
    scenes = "".join(f"f{number:02d},room{number // 2}\n" for number in range(TRAIN))
    (root / "scenes.csv").write_text("stem,scene\n" + scenes, "utf-8")
