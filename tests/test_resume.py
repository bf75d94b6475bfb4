"""What a later call on a run folder is held to."""

from pathlib import Path

import pytest

from engine.cli import load_config, to_toml
from engine.config import Config
from engine.mistakes import ConfigError
from engine.resume import check_same_experiment, differences
from engine.rundir import RunDir, load_run


def test_runtime_makes_no_other_experiment(tiny_config: Config, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.config.write_text(to_toml(tiny_config), encoding="utf-8")
    config = load_run(run, {"runtime": {"kernels": "reference", "device": "cuda:3"}})
    check_same_experiment(config, run)
    config = load_run(run, {"data": {"root": "elsewhere"}, "training": {"lr": 1}})
    with pytest.raises(ConfigError, match=r"or undo:\n  training.lr: 0.01 -> 1.0$"):
        check_same_experiment(config, run)


def test_differences_are_named_field_by_field() -> None:
    new = load_config([], {"training": {"epochs": 3}, "inference": {"flip": False}})
    assert differences(Config(), new) == [
        "training.epochs: 50 -> 3",
        "inference.flip: True -> False",
    ]
