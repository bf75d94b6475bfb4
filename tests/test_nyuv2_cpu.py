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
    "nyuv2_cpu": ("", ""),
    "nyuv2_cpu_hour": ("", ""),
}


def recipe(name: str) -> Config:
    return load_config([config_file(name)])


def test_the_hours_differs_in_what_takes_time_and_in_what_few_epochs_do_without() -> None:
    assert differences(recipe("nyuv2_cpu"), recipe("nyuv2_cpu_hour")) == []


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
