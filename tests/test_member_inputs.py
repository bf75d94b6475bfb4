"""Networks of a fold that see different things of a frame, and whose mean is scored."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from engine import train
from engine.cli import load_config
from engine.experiment import open_experiment
from engine.frames.faults import DatasetError
from engine.mistakes import ConfigError
from engine.rundir import RunDir
from engine.selection.records import TemperatureChoice
from engine.trained import Sight, choose_runs
from engine.views.predictor import open_predictor
from tests.conftest import FinishedRun

FIELDS = ("training.members=3", "training.member_inputs=rgbdn,rgbhha")


@pytest.fixture(scope="module")
def made(tiny_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run of two folds; nobody may change it."""
    run = RunDir(tmp_path_factory.mktemp("inputs") / "run")
    words = ["--config", str(tiny_toml), *FIELDS, "report.page=true", "--out", str(run.root)]
    assert train.main(words) == 0
    return run


def test_each_network_sees_its_own_and_the_first_is_that_of_a_run_of_one(
    made: RunDir, finished_run: FinishedRun
) -> None:
    weights = [load_file(made.best(k)) for k in range(6)]
    stems = [next(one[name] for name in one if "conv_stem" in name) for one in weights]
    assert [stem.shape[1] for stem in stems] == [3, 3, 7, 7, 6, 6]
    for fold in range(2):
        alone = load_file(finished_run.dir.best(fold))
        assert all(torch.equal(alone[name], weights[fold][name]) for name in alone)
    run = open_experiment(load_config([made.config]), made)
    assert [run.task(k).config.training.seed for k in (0, 2, 4)] == [42, 43, 44]
    (one,) = choose_runs([made.root], Sight(), fold=1)
    assert (one.folds, one.inputs) == ((1, 3, 5), ("rgb", "rgbdn", "rgbhha"))
    assert "on RGB and depth, " in made.report.read_text("utf-8")


def test_a_frame_is_scored_by_the_mean_of_what_they_see(made: RunDir) -> None:
    run = open_experiment(load_config([made.config]), made)
    store, fold = np.load(made.store), 1
    frames = run.folds.validation(fold).tolist()
    asked = [run.dataset.train.samples[index] for index in frames]
    looks = open_predictor(run.config, made, [1, 3, 5], run.policy)
    assert [network.spec.channels for network in looks.networks] == [3, 4, 4]
    alone = []
    for network in (1, 3, 5):
        looks = open_predictor(run.config, made, [network], run.policy)
        at = looks.at(TemperatureChoice.read(made.temperature).best)
        alone.append(torch.cat([prob_BTCHW[:, 0] for _, prob_BTCHW in at.predict(asked)]))
    mean = F.interpolate(torch.stack(alone).mean(0), store.shape[2:], mode="bilinear").numpy()
    assert np.abs(mean - store[frames].astype(np.float32)).max() < 1e-3  # float16


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    made: RunDir,
    tiny_toml: Path,
    tmp_path: Path,
    read_run: Callable[[Path], dict[str, Any]],
) -> None:
    words = ["--config", str(tiny_toml), *FIELDS, "report.page=true", "--out", str(tmp_path)]
    assert train.main([*words, "--folds", "4", "1", "--until", "trained"]) == 0
    assert train.main([*words, "--folds", "2", "--stop-after", "1"]) == 0
    assert train.main([*words, "--resume"]) == 0
    assert read_run(tmp_path) == read_run(made.root)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (["training.member_inputs=rgbd"], "type training.members=2, or as many inputs"),
        (["training.members=3", "training.member_inputs=rgbd"], "names 1 inputs"),
        (["training.members=2", "training.member_inputs=depth"], "member_inputs"),
        (
            ["training.members=2", "training.member_inputs=rgbd", "data.depth_dropout=0.1"],
            "model.input = 'rgb' sees none",
        ),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_trained(
    fields: list[str], told: str, tiny_toml: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        train.main(["--config", str(tiny_toml), *fields, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_depth_that_only_a_second_network_sees_has_to_be_there(
    tiny_root: Path, tiny_toml: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root, ignore=shutil.ignore_patterns("depth"))
    words = ["--config", str(tiny_toml), f"data.root={root}", "--out", str(tmp_path / "run")]
    with pytest.raises(DatasetError, match="train/depth: found no such folder"):
        train.main([*words, *FIELDS])
