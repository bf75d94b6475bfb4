"""The two recipes for CPU cores: what they differ in, and that they choose nothing."""

from pathlib import Path

import pytest

from engine.cli import load_config
from engine.config import Config
from engine.identity import stage_identity, weights_identity
from engine.named import config_file
from engine.resume import differences
from engine.rundir import RunDir

HASHES = {
    "nyuv2_cpu": ("e11e5d4d7165a2db", "ff18179fbc56ee0a"),
    "nyuv2_cpu_hour": ("39470870ec58468f", "7af511f821a09859"),
}


def recipe(name: str) -> Config:
    return load_config([config_file(name)])


def test_that_of_an_hour_has_one_network_a_fold_and_larger_batches_at_a_higher_rate() -> None:
    assert differences(recipe("nyuv2_cpu"), recipe("nyuv2_cpu_hour")) == [
        "training.epochs: 11 -> 12",
        "training.batch_size: 4 -> 8",
        "training.parts: 1 -> 2",
        "training.lr: 0.001 -> 0.0015",
        "training.ema_decay: 0.995 -> 0.99",
        "training.validate_every: 11 -> 12",
        "training.members: 4 -> 1",
        "training.member_inputs: ('rgbd', 'rgbdn', 'rgbdn') -> ()",
        "training.teacher: earlier -> ",
        "training.teacher_threshold: 0.8 -> 0.0",
    ]


@pytest.mark.parametrize("name", HASHES)
def test_nothing_is_chosen_on_the_frames_that_are_scored(name: str) -> None:
    config = recipe(name)
    assert config.data.fold_kind == "blocked"
    # One validation, so the last epoch's network; one temperature.
    assert config.training.validate_every == config.training.epochs
    assert config.inference.temperatures == (1.0,)


@pytest.mark.parametrize("name", HASHES)
def test_a_run_of_it_is_told_by_the_same_hashes_ever_after(name: str, tmp_path: Path) -> None:
    weights = weights_identity(recipe(name), RunDir(tmp_path), "abc", [0, 1, 2])
    stage = stage_identity(recipe(name), weights, "x")
    assert (weights[:16], stage[:16]) == HASHES[name]
