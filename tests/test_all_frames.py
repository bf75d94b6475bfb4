"""Networks on all frames: as many steps as a fold, a submission, and no score anywhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from engine import compare, predict, report_command, train
from engine.cli import load_config
from engine.experiment import open_experiment
from engine.identity import file_hash
from engine.mistakes import ConfigError
from engine.report.seen import seen_stems
from engine.report.summary import Summary
from engine.rundir import NOT_MEASURED, RunDir
from engine.selection.members import check_members
from engine.trained import Sight, choose_runs
from tests.conftest import TINY, FinishedRun

ALL = ("training.frames=all", "training.members=2", "selection.temperature=0.7")


@pytest.fixture(scope="module")
def typed(tiny_toml: Path) -> list[str]:
    return ["--config", str(tiny_toml), *ALL, "report.page=true"]


@pytest.fixture(scope="module")
def made(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run; nobody may change it."""
    run = RunDir(tmp_path_factory.mktemp("all") / "run")
    assert train.main([*typed, "--out", str(run.root)]) == 0
    return run


def test_it_leaves_networks_and_a_submission_and_no_score(made: RunDir) -> None:
    names = {path.name for path in made.root.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("config.toml", "environment.json", "folds.json", "fold0", "fold1", "parity.json"),
        *("temperature.json", "summary.json", "submission.npy", "submission.zip"),
        *("submission.csv", "seal.json", "log.txt", "metrics.csv", "report.html"),
    }
    assert "oof" not in json.loads(made.summary.read_text("utf-8"))
    summary = Summary.read(made.summary)
    assert summary.oof_scores is None
    with pytest.raises(ConfigError, match="out-of-fold: not measured"):
        _ = summary.oof
    assert json.loads(made.temperature.read_text("utf-8"))["best"] == 0.7
    assert set(json.loads(made.folds.read_text("utf-8"))["fold_of"].values()) == {-1}
    for k in range(2):
        lines = [json.loads(line) for line in made.metrics(k).read_text("utf-8").splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2]
        assert not any("miou" in line for line in lines)
    assert NOT_MEASURED in made.log.read_text("utf-8")
    page = made.report.read_text("utf-8")
    assert "Out-of-fold: not measured" in page
    assert "mIoU by one view" not in page
    assert np.load(made.submission).shape == (5, 48, 64)


def test_its_networks_differ_by_their_seeds(made: RunDir) -> None:
    first, second = (load_file(made.best(k)) for k in range(2))
    name = next(name for name in first if name.endswith("conv_stem.weight"))
    assert not np.array_equal(first[name].numpy(), second[name].numpy())
    config = load_config([made.config])
    run = open_experiment(config, made)
    tasks = [run.task(k) for k in range(2)]
    assert [task.config.training.seed for task in tasks] == [42, 43]
    for task in tasks:
        assert (len(task.training), len(task.validation)) == (12, 0)
        # 12 frames, of which a fold of two trains on six, two a step.
        assert task.steps_per_epoch == 3


def test_called_again_it_is_complete(
    made: RunDir, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = file_hash(made.submission)
    assert train.main([*typed, "--out", str(made.root)]) == 0
    told = capsys.readouterr().out
    assert NOT_MEASURED in told
    assert "mIoU" not in told
    assert file_hash(made.submission) == before


def test_stopped_and_gone_on_with_it_is_the_same(
    made: RunDir,
    typed: list[str],
    tmp_path: Path,
    read_run: Callable[[Path], dict[str, Any]],
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert train.main([*typed, *out, "--stop-after", "1"]) == 0
    assert not RunDir(tmp_path / "run").best(0).exists()
    assert train.main([*typed, *out, "--folds", "0", "--resume"]) == 0
    assert not RunDir(tmp_path / "run").summary.exists()
    assert train.main([*typed, *out, "--resume"]) == 0
    assert read_run(tmp_path / "run") == read_run(made.root)


def test_it_predicts_and_knows_that_it_has_seen_the_frames(
    made: RunDir, tiny_root: Path, tmp_path: Path
) -> None:
    images = str(tiny_root / "test" / "image")
    assert predict.main([str(made.root), images, "--out", str(tmp_path / "masks")]) == 0
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 5
    (one,) = choose_runs([made.root], Sight())
    assert (one.folds, one.temperature) == ((0, 1), 0.7)
    samples = open_experiment(one.config, made).dataset.train.samples
    for folds in ([0], [1], [0, 1]):
        assert seen_stems(one.config, made, folds, samples) == {s.stem for s in samples}


def test_what_needs_scores_says_that_there_are_none(
    made: RunDir, finished_run: FinishedRun, typed: list[str], tmp_path: Path
) -> None:
    runs = [str(finished_run.dir.root), str(made.root)]
    told = f"{made.root}: {NOT_MEASURED}; "
    with pytest.raises(ConfigError, match=f"{told}compare the runs"):
        compare.main(runs)
    with pytest.raises(ConfigError, match=f"{told}no weights of a blend"):
        check_members([Path(run) for run in runs])
    with pytest.raises(ConfigError, match=f"{told}it has no figures"):
        report_command.main([*runs, "--out", str(tmp_path / "board.html")])
    with pytest.raises(ConfigError, match="type --until trained"):
        train.main([*typed, "--out", str(tmp_path / "run"), "--until", "predicted"])
    with pytest.raises(ConfigError, match="training.members = 2, so 0 .. 1 exist"):
        train.main([*typed, "--out", str(tmp_path / "run"), "--folds", "2"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"training": {"frames": "all"}}, "type selection.temperature=T"),
        ({"training": {"frames": "all", "epochs": 0}}, "trains none"),
        (
            {
                "training": {"frames": "all"},
                "inference": {"temperatures": [1.0]},
                "runtime": {"inference": "openvino-int8"},
            },
            "use openvino",
        ),
    ],
)
def test_what_cannot_be_is_told_before_anything(flags: dict[str, Any], told: str) -> None:
    sections = {name: {**TINY.get(name, {}), **flags.get(name, {})} for name in {*TINY, *flags}}
    with pytest.raises(ConfigError, match=told):
        load_config([], sections)


def test_a_dry_run_tells_that_nothing_is_held_out(
    typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train.main([*typed, "--out", str(out), "--dry-run"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "to train: networks 0, 1 on all frames" in told
    assert "not measured" in told
    assert not out.exists()
