"""Several networks of each fold: their mean is what is scored out-of-fold and submitted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from engine import predict, train
from engine.cli import load_config
from engine.experiment import open_experiment
from engine.export.card import _scores
from engine.mistakes import ConfigError
from engine.report.seen import seen_stems
from engine.report.summary import Summary, networks_of
from engine.rundir import RunDir
from engine.teacher import find_teacher
from engine.trained import Sight, choose_runs
from engine.views.predictor import open_predictor
from tests.conftest import FinishedRun

TWO = ("training.members=2", "report.page=true")


@pytest.fixture(scope="module")
def typed(tiny_toml: Path) -> list[str]:
    return ["--config", str(tiny_toml), *TWO]


@pytest.fixture(scope="module")
def made(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run of two folds; nobody may change it."""
    run = RunDir(tmp_path_factory.mktemp("members") / "run")
    assert train.main([*typed, "--out", str(run.root)]) == 0
    return run


def lines_of(run: RunDir, network: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics(network).read_text("utf-8").splitlines()]


def test_first_members_are_the_networks_of_a_run_of_one_and_others_have_other_seeds(
    made: RunDir, finished_run: FinishedRun
) -> None:
    weights = [load_file(made.best(k)) for k in range(4)]
    for fold in range(2):
        alone = load_file(finished_run.dir.best(fold))
        assert all(torch.equal(alone[name], weights[fold][name]) for name in alone)
        other = weights[fold + 2]
        assert not all(torch.equal(alone[name], other[name]) for name in alone)
    run = open_experiment(load_config([made.config]), made)
    tasks = [run.task(k) for k in range(4)]
    assert [task.config.training.seed for task in tasks] == [42, 42, 43, 43]
    told = [tasks[k].config.told(k) for k in (1, 3)]
    assert told == ["fold 1", "fold 3 (fold 1, network 2)"]
    for first, second in ((0, 2), (1, 3)):
        assert np.array_equal(tasks[first].training, tasks[second].training)
        assert np.array_equal(tasks[first].validation, tasks[second].validation)
    assert not np.array_equal(tasks[0].validation, tasks[1].validation)
    with pytest.raises(ValueError, match="fold 4 does not exist; there are 0 .. 3"):
        run.task(4)


def test_a_frame_is_scored_by_the_mean_of_its_folds_networks_alone(made: RunDir) -> None:
    run = open_experiment(load_config([made.config]), made)
    manifest = json.loads(made.manifest.read_text("utf-8"))
    store = np.load(made.store)
    samples, hw = run.dataset.train.samples, store.shape[2:]
    for fold in range(2):
        frames = run.folds.validation(fold).tolist()
        asked = [samples[index] for index in frames]
        alone = []
        for network in (fold, fold + 2):
            looks = open_predictor(run.config, made, [network], run.policy)
            looked = looks.at(manifest["temperature"]).predict(asked)
            alone.append(torch.cat([prob_BTCHW[:, 0] for _, prob_BTCHW in looked]))
        mean = F.interpolate(torch.stack(alone).mean(0), hw, mode="bilinear").numpy()
        assert np.abs(mean - store[frames].astype(np.float32)).max() < 1e-3  # float16
        apart = [F.interpolate(one, hw, mode="bilinear").numpy() for one in alone]
        assert np.abs(apart[0] - apart[1]).max() > 0.02


def test_summary_table_and_page_tell_of_every_network(
    made: RunDir, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = Summary.read(made.summary)
    for fold, score in enumerate(summary.folds):
        assert (score.best_epoch, score.validation_miou) == (None, None)
        assert score.members is not None
        assert [one.network for one in score.members] == [fold, fold + 2]
        for one in score.members:
            found = {line["epoch"]: line.get("miou") for line in lines_of(made, one.network)}
            assert one.validation_miou == found[one.best_epoch]
    seconds = sum(line["train_s"] for k in range(4) for line in lines_of(made, k))
    assert summary.seconds["training"] == pytest.approx(seconds)
    assert train.main([*typed, "--out", str(made.root)]) == 0
    told = capsys.readouterr().out
    assert all(
        f"{one.validation_miou:.4f}" in told for s in summary.folds for one in networks_of(s)
    )
    page = made.report.read_text("utf-8")
    assert "Of each of the 2 networks of a fold the epoch with the best mIoU" in page
    assert all(
        f"{one.validation_miou:.4f}" in page for s in summary.folds for one in networks_of(s)
    )
    assert "2 networks each (fold 2 is one more of fold 0)" in made.log.read_text("utf-8")


def test_the_submission_is_of_all_networks(made: RunDir, tiny_root: Path, tmp_path: Path) -> None:
    (one,) = choose_runs([made.root], Sight())
    assert one.folds == (0, 1, 2, 3)
    images = str(tiny_root / "test" / "image")
    assert predict.main([str(made.root), images, "--out", str(tmp_path / "masks")]) == 0
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 5


def test_one_folds_networks_look_alone_and_have_not_seen_its_frames(made: RunDir) -> None:
    (one,) = choose_runs([made.root], Sight(), fold=1)
    assert (one.folds, one.fold) == ((1, 3), 1)
    run = open_experiment(one.config, made)
    samples = run.dataset.train.samples
    held_out = {samples[index].stem for index in run.folds.validation(1).tolist()}
    stems = {sample.stem for sample in samples}
    assert seen_stems(one.config, made, one.folds, samples) == stems - held_out
    assert seen_stems(one.config, made, (0, 1), samples) == stems
    with pytest.raises(ConfigError, match="--fold 2: .* has folds 0 to 1"):
        choose_runs([made.root], Sight(), fold=2)


def test_a_model_card_tells_what_scored_a_frame(made: RunDir, finished_run: FinishedRun) -> None:
    for run, told in (
        (made, "scored by the mean of its fold's networks, which were not trained on it."),
        (finished_run.dir, "scored by the network that was not trained on it."),
    ):
        card = _scores(run.root, choose_runs([run.root], Sight(), fold=1), 1)
        assert f"Out of fold: each frame is {told}" in card
        assert any(line.startswith("- of fold 1 alone, which this is: mIoU 0.") for line in card)


def test_a_fold_is_predicted_once_all_its_networks_are_there_and_the_end_is_the_same(
    made: RunDir,
    typed: list[str],
    tmp_path: Path,
    read_run: Callable[[Path], dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = ["--out", str(tmp_path / "run")]
    run = RunDir(tmp_path / "run")
    assert train.main([*typed, *out, "--folds", "0", "3"]) == 0
    assert "networks 1 2 remain" in caplog.text
    assert not list(run.oof.glob("**/progress.json"))
    assert train.main([*typed, *out, "--folds", "2", "--stop-after", "1"]) == 0
    assert train.main([*typed, *out, "--folds", "2", "--resume"]) == 0
    (progress,) = run.root.glob("**/progress.json")
    assert list(json.loads(progress.read_text("utf-8"))["folds"]) == ["0"]
    assert train.main([*typed, *out]) == 0
    assert read_run(run.root) == read_run(made.root)


def test_a_network_learns_from_all_of_its_folds_teacher(made: RunDir) -> None:
    config = load_config([made.config], {"training": {"teacher": f"run:{made.root}"}})
    teacher = find_teacher(config)
    assert [teacher.networks(k, holds_out=True) for k in range(4)] == [(0, 2), (1, 3)] * 2
    assert len(teacher.origin.networks) == 4


def test_only_numbers_that_exist_are_trained(typed: list[str], tmp_path: Path) -> None:
    told = "--folds 4: data.folds = 2, training.members = 2, so 0 .. 3 exist"
    with pytest.raises(ConfigError, match=told):
        train.main([*typed, "--out", str(tmp_path / "run"), "--folds", "4"])
