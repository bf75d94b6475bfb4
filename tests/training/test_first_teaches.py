"""`training.teacher = "first"`, `"earlier"`: networks of a fold label for others of it."""

import json
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from engine import train
from engine.cli import load_config
from engine.experiment import open_experiment
from engine.mistakes import ConfigError
from engine.report.seen import seen_stems
from engine.rundir import RunDir
from engine.training.pseudo import labelling_s, pseudo_label
from engine.views.predictor import open_predictor
from tests.conftest import FinishedRun
from tests.stopping import StoppedError, stop_at

# Two folds of two networks: 0 and 1 teach 2 and 3.
FIELDS = ("training.members=2", "training.teacher=first", "training.teacher_threshold=0.3")

ReadRun = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def made(tiny_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run; nobody may change it."""
    run = RunDir(tmp_path_factory.mktemp("first") / "run")
    assert train.main(call(tiny_toml, run)) == 0
    return run


def call(config: Path, run: RunDir, *more: str) -> list[str]:
    return [str(config), "--out", str(run.root), *FIELDS, "report.page=true", *more]


def test_first_networks_are_those_of_a_run_of_one_and_have_no_teacher(
    made: RunDir, finished_run: FinishedRun
) -> None:
    for fold in (0, 1):
        alone, first = (load_file(run.best(fold)) for run in (finished_run.dir, made))
        assert all(torch.equal(alone[name], first[name]) for name in alone)
        assert not made.pseudo(fold).exists()
    run = open_experiment(load_config([made.config]), made)
    assert [run.task(k).steps_per_epoch for k in range(4)] == [3, 3, 6, 6]
    log = made.log.read_text("utf-8")
    assert log.count("5 test frames are labelled by the first network of each fold") == 1
    for fold in (0, 1):
        assert log.count(f"fold {fold + 2}: 5 test frames labelled by network {fold} of this") == 1
    page = made.report.read_text("utf-8")
    assert "labelled by the first network of each fold for its others and trained on" in page


def test_its_labels_are_what_the_first_says_of_the_size_of_training_and_mirrored(
    made: RunDir,
) -> None:
    check_labels(made, 3, teachers=[1], flip=True)


def check_labels(made: RunDir, network: int, *, teachers: Sequence[int], flip: bool) -> None:
    """A network's labels are what these say of each frame, of the size of training."""
    run = open_experiment(load_config([made.config]), made)
    looks = {"scales": (1.0,), "flip": flip, "base_hw": "training"}
    views = run.config.inference.model_copy(update=looks)
    config = run.config.model_copy(update={"inference": views})
    predictor = open_predictor(config, made, teachers, run.policy).at(1.0)
    frames = run.dataset.test.samples
    with zipfile.ZipFile(made.pseudo(network)) as archive:
        found = [np.array(Image.open(BytesIO(archive.read(f"{one.stem}.png")))) for one in frames]
    expected = [
        pseudo_label(prob_TChw[0], batch.hw, 0.3)
        for batch, prob_BTChw in predictor.predict(frames)
        for prob_TChw in prob_BTChw
    ]
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_the_third_is_taught_by_the_first_and_the_second_together(
    made: RunDir, tiny_toml: Path, tmp_path: Path
) -> None:
    run, more = RunDir(tmp_path / "run"), ("training.members=3", "training.teacher=earlier")
    untrained = ("--folds", "0", "4", "--until", "trained")
    with pytest.raises(ConfigError, match="network 4 learns from network 2, an earlier one of its"):
        train.main(call(tiny_toml, run, *more, *untrained))
    assert train.main(call(tiny_toml, run, *more)) == 0
    for network in range(4):  # a lone network before the second is the first
        alone, here = (load_file(one.best(network)) for one in (made, run))
        assert all(torch.equal(alone[name], here[name]) for name in alone)
    check_labels(run, 5, teachers=[1, 3], flip=False)
    log, page = run.log.read_text("utf-8"), run.report.read_text("utf-8")
    assert log.count("test frames are labelled by the earlier networks of each fold") == 1
    assert log.count("fold 5: 5 test frames labelled by networks 1 3 of this run") == 1
    assert "labelled by the earlier networks of each fold for its later ones and" in page
    seconds = json.loads(run.summary.read_text("utf-8"))["seconds"]
    assert 0 < seconds["labelling"] < seconds["total"]
    assert seconds["labelling"] == pytest.approx(labelling_s(run, [2, 3, 4, 5]))


def test_only_those_that_were_taught_have_seen_the_test_frames(made: RunDir) -> None:
    run = open_experiment(load_config([made.config]), made)
    frames = run.dataset.test.samples
    assert not seen_stems(run.config, made, [0], frames)
    assert seen_stems(run.config, made, [2], frames) == {one.stem for one in frames}


@pytest.mark.parametrize("event", ["renamed pseudo.zip 1", "write last.pt 9"])
def test_stopped_and_gone_on_with_it_is_the_same(
    event: str,
    made: RunDir,
    tiny_toml: Path,
    tmp_path: Path,
    read_run: ReadRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = RunDir(tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(event, patch)
        with pytest.raises(StoppedError):
            train.main(call(tiny_toml, run))
    assert train.main(call(tiny_toml, run, "--resume")) == 0
    assert read_run(run.root) == read_run(made.root)


def test_a_network_waits_for_the_first_of_its_fold(
    made: RunDir, tiny_toml: Path, tmp_path: Path, read_run: ReadRun
) -> None:
    run = RunDir(tmp_path / "run")
    told = "network 3 learns from network 1, the first of its fold, .* before it: --folds 1"
    with pytest.raises(ConfigError, match=told):
        train.main(call(tiny_toml, run, "--folds", "0", "3", "--until", "trained"))
    # The first of the fold is among them, but is not to be trained to its end.
    with pytest.raises(ConfigError, match=told):
        train.main(call(tiny_toml, run, "--folds", "1", "3", "--stop-after", "1"))
    assert not run.pseudo(3).exists()
    until = ("--until", "trained", "--resume")
    for network in "1302":
        assert train.main(call(tiny_toml, run, "--folds", network, *until)) == 0
    assert train.main(call(tiny_toml, run)) == 0
    expected, found = read_run(made.root), read_run(run.root)
    assert {name for name in expected if expected[name] != found[name]} <= {"environment.json"}


def test_who_cannot_learn_from_a_first_is_told_in_a_line() -> None:
    with pytest.raises(ConfigError, match=r"teaches others of its fold; type training.members=2"):
        load_config([], {"training": {"teacher": "first"}})
    everything: dict[str, Any] = {"teacher": "first", "members": 2, "frames": "all"}
    with pytest.raises(ConfigError, match=r'is of folds, and training.frames = "all"; name a run'):
        load_config([], {"training": everything, "selection": {"temperature": 1.0}})
