"""What a later call on a run folder is held to."""

from pathlib import Path

import pytest
import torch

from engine import train
from engine.cli import load_config, to_toml
from engine.config import Config
from engine.mistakes import ConfigError
from engine.resume import check_same_experiment, differences
from engine.rundir import RunDir, load_run
from engine.runtime.recorded import RecordedRuntime


def test_runtime_makes_no_other_experiment(tiny_config: Config, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.config.write_text(to_toml(tiny_config), encoding="utf-8")
    config = load_run(run, {"runtime": {"kernels": "reference", "device": "cuda:3"}})
    check_same_experiment(config, run)
    config = load_run(run, {"data": {"root": "elsewhere", "exif": "ignore"}, "training": {"lr": 1}})
    with pytest.raises(ConfigError, match=r"or undo:\n  training.lr: 0.01 -> 1.0$"):
        check_same_experiment(config, run)


def test_a_run_from_before_the_field_left_images_as_stored(
    tiny_config: Config, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    text = to_toml(tiny_config)
    run.config.write_text(text.replace('exif = "turn"\n', ""), encoding="utf-8")
    assert load_run(run).data.exif == "ignore"
    check_same_experiment(tiny_config, run)


def test_differences_are_named_field_by_field() -> None:
    new = load_config([], {"training": {"epochs": 3}, "inference": {"flip": False}})
    assert differences(Config(), new) == [
        "training.epochs: 50 -> 3",
        "inference.flip: True -> False",
    ]


def test_a_resumed_fold_has_its_threads_and_the_next_one_this_calls(
    tiny_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def stop(*_: object) -> None:
        threads.append(torch.get_num_threads())
        raise KeyboardInterrupt

    arguments = ["--config", str(tiny_toml), "--out", str(tmp_path), "--runtime.threads", "0"]
    torch.set_num_threads(1)
    with monkeypatch.context() as patch:
        patch.setattr("engine.training.loop.FoldTraining.validate", stop)
        with pytest.raises(KeyboardInterrupt):
            train.main([*arguments, "--folds", "0"])
    torch.set_num_threads(2)
    with monkeypatch.context() as patch:
        # Neither fold is trained on, so the call ends after them.
        patch.setattr(
            "engine.training.loop.FoldTraining.run",
            lambda _: threads.append(torch.get_num_threads()),
        )
        assert train.main([*arguments, "--resume"]) == 0
    assert threads == [1, 1, 2]
    assert RecordedRuntime.read(RunDir(tmp_path).runtime(1)).threads == 2
    assert torch.get_num_threads() == 2
