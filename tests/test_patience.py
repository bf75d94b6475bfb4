"""Early stopping: when a fold ends, who knows of it, and that no kill changes a byte."""

import json
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from safetensors import safe_open

from engine import train
from engine.cli import load_config
from engine.config import TrainingConfig
from engine.epochs import epochs_of, is_trained, last_epoch
from engine.mistakes import ConfigError
from engine.report.page.run_page import run_page
from engine.rundir import RunDir, load_run
from engine.sums import remove
from engine.sweep.done import state_of
from engine.sweep.plan import Command
from engine.sweep.table import stand_of
from engine.training.loop import FoldTraining
from engine.training.patience import end_of
from engine.training.records import EpochLine
from tests.conftest import ROOT
from tests.ranks import torchrun
from tests.stopping import StoppedError, stop_at

ReadRun = Callable[[Path], dict[str, Any]]

EPOCHS, PATIENCE = 6, 2
MIOU = {0: [0.1, 0.3, 0.2, 0.3, 0.9, 0.9], 1: [0.1, 0.2, 0.2, 0.3, 0.4, 0.5]}
"""By fold, of each epoch: fold 0 ends after the fourth, with the weights of the second."""

FIELDS = [f"training.epochs={EPOCHS}", f"training.patience={PATIENCE}"]


@pytest.fixture(scope="module")
def scripted() -> Any:
    """Validations measure what `MIOU` says, whatever the weights are."""
    at: list[tuple[int, int]] = []
    validate = FoldTraining.validate

    def noted(self: FoldTraining, epoch: int) -> dict[str, float]:
        at[:] = [(self.task.fold, epoch)]
        return validate(self, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FoldTraining, "validate", noted)
        patch.setattr("engine.training.loop.mean_iou", lambda _: MIOU[at[0][0]][at[0][1] - 1])
        yield


@pytest.fixture(scope="module")
def undisturbed(scripted: None, tiny_toml: Path, tmp_path_factory: Any) -> tuple[RunDir, str]:
    """A run of one call, and what it said; nobody may change it."""
    run = RunDir(tmp_path_factory.mktemp("patience") / "run")
    assert train.main(call(tiny_toml, run)) == 0
    return run, run.log.read_text("utf-8")


def call(config: Path, run: RunDir) -> list[str]:
    return [str(config), "--out", str(run.root), *FIELDS]


def lines_of(run: RunDir, fold: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics(fold).read_bytes().splitlines()]


def test_two_processes_end_a_fold_where_one_does(
    tiny_toml: Path, tmp_path: Path, read_run: ReadRun
) -> None:
    words = [str(tiny_toml), "training.parts=2", "training.epochs=8", "training.patience=1"]
    alone, both = RunDir(tmp_path / "alone"), RunDir(tmp_path / "both")
    assert train.main([*words, "--out", str(alone.root)]) == 0
    command = [*torchrun(2, "engine.train"), *words, "--out", str(both.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    training = load_run(alone).training
    ended = sum(last_epoch(alone, fold, training) < 8 for fold in (0, 1))
    assert ended, "else this tells nothing"
    told = [run.log.read_text("utf-8").count("ends after epoch") for run in (alone, both)]
    assert told == [ended, ended]
    expected, found = read_run(alone.root), read_run(both.root)
    assert expected.keys() == found.keys()
    assert {name for name in expected if expected[name] != found[name]} <= {"environment.json"}


def test_a_fold_ends_with_its_patience_and_says_so_once(undisturbed: tuple[RunDir, str]) -> None:
    run, log = undisturbed
    assert [line["miou"] for line in lines_of(run, 0)] == MIOU[0][:4]
    assert [line["miou"] for line in lines_of(run, 1)] == MIOU[1]
    ends = ["stopped_early" in line for fold in (0, 1) for line in lines_of(run, fold)]
    assert ends == [False] * 3 + [True] + [False] * 6
    with safe_open(run.best(0), framework="np") as file:
        assert json.loads(file.metadata()["roomsmith"])["epoch"] == "2"
    told = "fold 0 ends after epoch 4 of 6: training.patience = 2, and its best mIoU, 0.3000, is "
    assert log.count(told + "that of epoch 2") == 1
    assert log.count("ends after epoch") == 1
    assert "at most" in log


def test_summary_tables_and_page_tell_where_a_fold_was_stopped(
    undisturbed: tuple[RunDir, str],
    tiny_toml: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, _ = undisturbed
    summary = json.loads(run.summary.read_text("utf-8"))
    assert summary["folds"][0]["stopped_after"] == 4
    assert summary["folds"][0]["best_epoch"] == 2
    assert "stopped_after" not in summary["folds"][1]
    monkeypatch.setenv("COLUMNS", "200")
    assert train.main(call(tiny_toml, run)) == 0  # it is sealed: nothing but the tables
    shown = capsys.readouterr().out
    assert "stopped after" in shown
    (row,) = (line for line in shown.splitlines() if " 0.3000 " in line)
    assert row.rstrip("│ ").endswith(" 4")
    page = run_page(run)
    assert "1 of 2 folds ended before epoch 6, after 2 validations in a row without" in page
    assert '<th class="n">stopped after</th>' in page
    assert "at most 6 epochs a fold" in page


def test_of_a_run_without_patience_no_table_has_the_column(
    finished_run: Any, tmp_path: Path
) -> None:
    assert "stopped after" not in finished_run.stdout
    assert "stopped after" not in run_page(finished_run.dir)
    assert "at most" not in finished_run.stderr


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(
            "write metrics.jsonl 4", id="no line of its last epoch", marks=pytest.mark.full
        ),
        pytest.param("renamed metrics.jsonl 4", id="the line, and not its table"),
        pytest.param(
            "write last.pt 8", id="the line, and an older checkpoint", marks=pytest.mark.full
        ),
        pytest.param("renamed last.pt 8", id="the checkpoint, and nothing told"),
        pytest.param("write metrics.jsonl 5", id="in the fold after it"),
    ],
)
def test_killed_around_its_end_it_goes_on_to_the_same_bytes(
    event: str,
    undisturbed: tuple[RunDir, str],
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
    assert run.last(0).exists()
    assert train.main([*call(tiny_toml, run), "--resume"]) == 0
    assert read_run(run.root) == read_run(undisturbed[0].root)


def test_a_fold_that_ended_needs_no_resume_and_is_told_as_trained(
    undisturbed: tuple[RunDir, str],
    tiny_toml: Path,
    tmp_path: Path,
    read_run: ReadRun,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = RunDir(tmp_path / "run")
    logging.getLogger("engine").propagate = True
    with caplog.at_level(logging.INFO):
        assert train.main([*call(tiny_toml, run), "--folds", "0", "--until", "trained"]) == 0
    assert "fold 0 is trained; folds 1 and all that follows remain, as asked" in caplog.text
    training = load_run(run).training
    assert (epochs_of(run, 0), last_epoch(run, 0, training)) == (4, 4)
    assert is_trained(run, 0, training)
    assert (epochs_of(run, 1), last_epoch(run, 1, training)) == (0, EPOCHS)
    assert not is_trained(run, 1, training)
    # A sweep sees it from outside.
    assert state_of(Command("run/fold0", ("train",), run.root, fold=0)) == (True, 4)
    assert not state_of(Command("run/fold1", ("train",), run.root, fold=1)).done
    found = stand_of(run, 0)
    assert (found.epoch, found.epochs, found.left_s, found.at_most) == (4, 4, 0.0, False)
    assert train.main(call(tiny_toml, run)) == 0
    assert read_run(run.root) == read_run(undisturbed[0].root)


def test_without_its_checkpoint_a_fold_that_ended_stays_trained(
    undisturbed: tuple[RunDir, str],
    tiny_toml: Path,
    tmp_path: Path,
    read_run: ReadRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(self: FoldTraining) -> NoReturn:
        raise AssertionError("nothing has to be trained")

    run = RunDir(tmp_path / "run")
    shutil.copytree(undisturbed[0].root, run.root)
    shutil.rmtree(run.oof)
    remove(run.summary)
    monkeypatch.setattr(FoldTraining, "run", forbidden)
    assert train.main(call(tiny_toml, run)) == 0
    assert read_run(run.root) == read_run(undisturbed[0].root)
    # A line that is not as it was written does not begin the fold anew.
    run.metrics(0).write_bytes(run.metrics(0).read_bytes().replace(b"true", b"fals"))
    remove(run.summary)
    with pytest.raises(ValueError, match=rf"{run.metrics(0)} is damaged: "):
        train.main(call(tiny_toml, run))


@pytest.mark.parametrize(
    ("patience", "miou", "ends"),
    [
        (1, [0.5], False),
        (1, [0.5, 0.5], True),
        (1, [0.5, None], False),
        (2, [0.5, None, 0.4], False),
        (2, [0.5, 0.4, None, 0.5], True),
        (2, [0.5, 0.4, 0.6], False),
        (0, [0.5, 0.4, 0.4, 0.4], False),
        (1, [0.0, 0.0], True),
    ],
)
def test_validations_in_a_row_without_a_higher_score_are_counted(
    patience: int, miou: list[float | None], ends: bool
) -> None:
    scores = [{} if one is None else {"miou": one, "pixel_acc": 0.5} for one in miou]
    lines = [
        EpochLine(epoch=number, **one, train_s=1.0, validation_s=1.0)
        for number, one in enumerate(scores[:-1], 1)
    ]
    training = TrainingConfig(epochs=9, patience=patience)
    assert end_of(training, lines, scores[-1], len(miou)) == (
        {"stopped_early": True} if ends else {}
    )
    # The last epoch ends a fold by itself.
    assert end_of(training, lines, scores[-1], 9) == {}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"frames": "all", "patience": 1}, 'counts validations, and training.frames = "all" has'),
        ({"epochs": 6, "patience": 5}, "training.validate_every = 1 ends a fold after epoch 6 at"),
        ({"epochs": 9, "patience": 2, "validate_every": 3}, "epoch 9 at the earliest, and"),
        ({"epochs": 1, "patience": 1}, "type less patience, or training.patience=0"),
        ({"patience": -1}, "training.patience"),
    ],
)
def test_patience_that_ends_no_fold_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config([], {"training": fields, "selection": {"temperature": 1.0}})


def test_the_least_patience_that_can_end_one_is_not() -> None:
    training: dict[str, Any] = {"epochs": 10, "patience": 2, "validate_every": 3}
    assert load_config([], {"training": training}).training.patience == 2
