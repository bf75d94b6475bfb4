"""A run of seconds on twelve frames, for all tests of a fold in training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import Config
from engine.data.folds import make_folds
from engine.experiment import Experiment
from engine.frames.index import DatasetSpec, load_dataset
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.loop import FoldTask

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def open_run(tiny_config: Config) -> Callable[..., Experiment]:
    """`open_run(root, training={...}, runtime={...})`: the tiny run, some fields changed."""
    data = tiny_config.data
    dataset = load_dataset(Path(data.root), DatasetSpec(data.classes, data.small_classes))
    folds = make_folds(
        dataset.train.samples, data.fold_kind, data.folds, data.fold_seed, data.blocks_per_fold
    )
    policy = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))

    def make(root: Path, **changes: dict[str, Any]) -> Experiment:
        sections = {
            name: getattr(tiny_config, name).model_copy(update=fields)
            for name, fields in changes.items()
        }
        config = tiny_config.model_copy(update=sections)
        return Experiment(config, RunDir(root), dataset, folds, policy, "hash")

    return make


@pytest.fixture
def make_task(open_run: Callable[..., Experiment], tmp_path: Path) -> Callable[..., FoldTask]:
    """`make_task(training={...}, runtime={...})`: fold 1 of such a run in `tmp_path`."""

    def make(**changes: dict[str, Any]) -> FoldTask:
        return open_run(tmp_path / "run", **changes).task(1)

    return make
