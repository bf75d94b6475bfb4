"""What the sections train: exp093_5 at full size on a GPU, the demo's network on a CPU.

Both have random weights and frames that the project renders itself, so that nothing is fetched.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import JsonValue

from engine.cli import load_config
from engine.config import Config
from engine.experiment import Experiment, open_experiment
from engine.rooms.dataset import render_rooms
from engine.rundir import RunDir

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class _Size(NamedTuple):
    config: str
    hw: tuple[int, int]
    """of the frames, pixels"""


_FULL, _SMALL = _Size("exp093_5.toml", (480, 640)), _Size("demo.toml", (120, 160))

_SCENES, _FRAMES = 6, 4
"""Rooms and views of each: 20 training frames, enough for a batch of 16, and 4 test frames."""


def make_config(folder: Path) -> Config:
    """The experiment, its frames and cache in `folder`; they are rendered once."""
    size = _FULL if torch.cuda.is_available() else _SMALL
    root = folder / f"rooms{size.hw[0]}"
    render_rooms(root, scenes=_SCENES, frames=_FRAMES, hw=size.hw)
    flags: dict[str, JsonValue] = {
        "data": {"root": str(root), "folds": 2, "fold_kind": "blocked", "blocks_per_fold": 2},
        "model": {"weights": "none"},
        "runtime": {"cache": str(folder / "cache")},
    }
    return load_config([_CONFIGS / size.config], flags)


def open_run(folder: Path, config: Config | None = None) -> Experiment:
    """An experiment, that of `make_config` unless another is named, opened; nothing is written."""
    return open_experiment(config or make_config(folder), RunDir(folder / "not-run"))
