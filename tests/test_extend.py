"""A trained run that gets more epochs: what goes on, what is kept, and that no kill changes it."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from engine import train
from engine.api import Run
from engine.damage import DamageError
from engine.extended import Extended
from engine.mistakes import ConfigError
from engine.report.page.run_page import run_page
from engine.rundir import RunDir, load_run
from engine.sums import check
from engine.training.loop import FoldTraining
from engine.training.step import learning_rate
from tests.stopping import StoppedError, stop_at

ReadRun = Callable[[Path], dict[str, Any]]

HAD, MORE = 2, 4


@pytest.fixture(scope="module")
def kept(tiny_toml: Path, tmp_path_factory: Any) -> RunDir:
    """A finished run of two epochs with its checkpoints; nobody may change it."""
    run = RunDir(tmp_path_factory.mktemp("extend") / "run")
    assert train.main(call(tiny_toml, run)) == 0
    return run


@pytest.fixture(scope="module")
def extended(kept: RunDir, tiny_toml: Path, tmp_path_factory: Any) -> RunDir:
    """The same, extended by one call; nobody may change it."""
    run = RunDir(tmp_path_factory.mktemp("extended") / "run")
    shutil.copytree(kept.root, run.root)
    assert train.main([*call(tiny_toml, run), "--extend", str(MORE)]) == 0
    return run


@pytest.fixture
def copied(kept: RunDir, tmp_path: Path) -> RunDir:
    shutil.copytree(kept.root, tmp_path / "run")
    return RunDir(tmp_path / "run")


def call(config: Path, run: RunDir) -> list[str]:
    return [str(config), "--out", str(run.root), "--runtime.keep_last"]


def lines_of(run: RunDir, fold: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics(fold).read_bytes().splitlines()]


def content_of(run: RunDir, read_run: ReadRun) -> dict[str, Any]:
    """But for the commit."""
    found = read_run(run.root)
    return {name: found[name] for name in found if not name.endswith("environment.json")}


def test_its_folds_go_on_by_the_schedule_of_all_epochs(extended: RunDir, kept: RunDir) -> None:
    training = load_run(extended).training
    assert training.epochs == MORE
    for fold in (0, 1):
        lines = lines_of(extended, fold)
        assert lines[:HAD] == lines_of(kept, fold)
        assert len(lines) == MORE
        # Three steps an epoch; the rate of the last one is told.
        rates = [learning_rate(training, 3 * epoch - 1, 3) for epoch in (3, 4)]
        assert [line["lr"] for line in lines[HAD:]] == rates
        assert rates[0] > lines[HAD - 1]["lr"]
    said = extended.log.read_text("utf-8")
    assert said.count("goes on from 2 to 4 epochs a fold, by the schedule of 4: the learning") == 1
    assert said.count("fold 0 continues at epoch 3, step 0") == 1
    summary = json.loads(extended.summary.read_text("utf-8"))
    assert summary["key"] != json.loads(kept.summary.read_text("utf-8"))["key"]
    assert extended.seal.exists()


def test_from_python_it_becomes_the_same(
    copied: RunDir, extended: RunDir, read_run: ReadRun
) -> None:
    Run.open(copied.root).extend(MORE)
    assert content_of(copied, read_run) == content_of(extended, read_run)
    with pytest.raises(ConfigError, match="epochs"):
        Run.open(copied.root).extend(HAD)


def test_what_it_was_is_told_and_kept_as_a_run(
    extended: RunDir,
    kept: RunDir,
    read_run: ReadRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(self: FoldTraining) -> NoReturn:
        raise AssertionError("nothing has to be trained")

    (stand,) = Extended.read(extended.extended).stands
    miou = json.loads(kept.summary.read_text("utf-8"))["oof"]["miou"]
    assert (stand.epochs, stand.miou, stand.kept) == (HAD, miou, "epochs2")
    before = RunDir(tmp_path / "before")
    shutil.copytree(extended.root / stand.kept, before.root)
    expected = content_of(kept, read_run)
    del expected["fold0/last.pt"], expected["fold1/last.pt"], expected["seal.json"]
    assert content_of(before, read_run) == expected
    # Finished, so that what reads runs reads it too.
    monkeypatch.setattr(FoldTraining, "run", forbidden)
    assert train.main(["--out", str(before.root)]) == 0
    assert before.seal.exists()
    told = f"Finished with 2 epochs, out-of-fold mIoU {miou:.4f}, it was given more."
    assert told in run_page(extended)
    assert "it was given more" not in run_page(kept)


@pytest.mark.parametrize(
    "event",
    [
        pytest.param("write epochs2 1", marks=pytest.mark.full),
        "renamed epochs2 1",
        "renamed extended.json 1",
        pytest.param("renamed summary.json.tmp 1", marks=pytest.mark.full),
        "renamed prob.npy.tmp 1",
        pytest.param("write config.toml 1", marks=pytest.mark.full),
        "renamed config.toml 1",
        "write last.pt 2",
        pytest.param("renamed last.pt 4", marks=pytest.mark.full),
        pytest.param("write summary.json 1", marks=pytest.mark.full),
    ],
)
def test_killed_at_any_moment_the_same_command_goes_on(
    event: str,
    copied: RunDir,
    extended: RunDir,
    tiny_toml: Path,
    read_run: ReadRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        stop_at(event, patch)
        with pytest.raises(StoppedError):
            train.main([*call(tiny_toml, copied), "--extend", str(MORE)])
    assert train.main([*call(tiny_toml, copied), "--extend", str(MORE)]) == 0
    assert content_of(copied, read_run) == content_of(extended, read_run)


def test_killed_before_its_config_says_so_it_is_still_what_it_was(
    copied: RunDir,
    kept: RunDir,
    tiny_toml: Path,
    read_run: ReadRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        stop_at("write config.toml 1", patch)
        with pytest.raises(StoppedError):
            train.main([*call(tiny_toml, copied), "--extend", str(MORE)])
    assert not copied.summary.exists()
    assert train.main(call(tiny_toml, copied)) == 0
    found, expected = content_of(copied, read_run), content_of(kept, read_run)
    assert {name: found[name] for name in expected} == expected


def test_begun_it_goes_on_by_itself_and_it_may_be_extended_again(
    copied: RunDir,
    extended: RunDir,
    tiny_toml: Path,
    read_run: ReadRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        stop_at("renamed config.toml 1", patch)
        with pytest.raises(StoppedError):
            train.main([*call(tiny_toml, copied), "--extend", str(MORE)])
    # The run knows its own config.
    assert train.main(["--out", str(copied.root), "--resume"]) == 0
    assert content_of(copied, read_run) == content_of(extended, read_run)
    assert train.main([*call(tiny_toml, copied), "--extend", str(MORE)]) == 0  # nothing to do
    assert train.main(["--out", str(copied.root), "--extend", "5"]) == 0
    stands = Extended.read(copied.extended).stands
    assert [(one.epochs, one.kept) for one in stands] == [(2, "epochs2"), (4, "epochs4")]
    assert len({one.weights_hash for one in stands}) == 2
    assert [len(lines_of(copied, fold)) for fold in (0, 1)] == [5, 5]
    assert not (copied.root / "epochs4" / "epochs2").exists()
    assert (copied.root / "epochs4" / "extended.json").exists()


def test_without_checkpoints_it_says_what_to_do_instead(
    copied_run: RunDir, read_run: ReadRun
) -> None:
    before = read_run(copied_run.root)
    told = (
        "was finished without runtime.keep_last=true, so fold 0 1 has no last.pt to go on from; "
        f"model.weights=run:{copied_run.root} fine-tunes its weights, in another --out"
    )
    with pytest.raises(ConfigError, match=told):
        train.main(["--out", str(copied_run.root), "--extend", "9"])
    assert read_run(copied_run.root) == before


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--extend", "2"], "--extend 2: .* has 2 epochs a fold already; type more"),
        (["--extend", "1"], "--extend 1: .* has 2 epochs a fold already; type more"),
        (["--extend", "4", "training.lr=1"], "another experiment.*\n  training.lr: 0.01 -> 1"),
        (["--extend", "4", "training.epochs=5"], "--extend 4 and training.epochs = 5 are two"),
        (["--extend", "4", "--dry-run"], "--extend changes the run; type it without --dry-run"),
    ],
)
def test_what_it_cannot_be_is_refused_in_a_line(
    typed: list[str], told: str, kept: RunDir, read_run: ReadRun
) -> None:
    before = read_run(kept.root)
    with pytest.raises(ConfigError, match=told):
        train.main(["--out", str(kept.root), *typed])
    assert read_run(kept.root) == before


def test_no_run_and_one_that_is_not_finished_are_refused(tiny_toml: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with pytest.raises(ConfigError, match="--extend 4: .* is no run folder; name one that"):
        train.main([*call(tiny_toml, run), "--extend", "4"])
    assert not run.root.exists()
    assert train.main([*call(tiny_toml, run), "--stop-after", "1", "--folds", "0"]) == 0
    with pytest.raises(ConfigError, match=r"fold 0 of .* has 1 of 2 epochs, .*; complete it: "):
        train.main([*call(tiny_toml, run), "--extend", "4"])
    assert train.main([*call(tiny_toml, run), "--until", "trained", "--resume"]) == 0
    with pytest.raises(ConfigError, match=r"is not finished: it has no summary.json; complete"):
        train.main([*call(tiny_toml, run), "--extend", "4"])


def test_a_fold_that_its_patience_ended_is_refused(tiny_toml: Path, copied: RunDir) -> None:
    # As if: the fields of the run and the last line say so.
    copied.config.write_text(
        copied.config.read_text("utf-8")
        .replace("epochs = 2", "epochs = 9")
        .replace("patience = 0", "patience = 1"),
        encoding="utf-8",
    )
    text = copied.metrics(1).read_text("utf-8")
    copied.metrics(1).write_text(text[:-2] + ', "stopped_early": true}\n', encoding="utf-8")
    copied.metrics(0).write_text(text[:-2] + ', "stopped_early": true}\n', encoding="utf-8")
    words = ["training.patience=1", "--extend", "12"]
    with pytest.raises(ConfigError, match="training.patience = 1 ended fold 0 after epoch 2 of 9"):
        train.main([*call(tiny_toml, copied), *words])


def test_a_lost_word_on_what_it_was_is_damage(copied: RunDir, extended: RunDir) -> None:
    shutil.copy(extended.extended, copied.extended)
    shutil.copy(extended.root / ".extended.json.sum", copied.root / ".extended.json.sum")
    check(copied.extended)
    copied.extended.write_bytes(copied.extended.read_bytes().replace(b"epochs2", b"epochs3"))
    with pytest.raises(DamageError, match=r"extended.json is damaged: .*; restore it from a copy$"):
        check(copied.extended, anew=True)


def test_it_is_told_once(copied: RunDir, tiny_toml: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("engine").propagate = True
    typed = [*call(tiny_toml, copied), "--extend", "3"]
    with caplog.at_level(logging.INFO):
        assert train.main([*typed, "--folds", "0", "--until", "trained"]) == 0
        assert "fold 0 is trained; folds 1 and all that follows remain, as asked" in caplog.text
        assert train.main(typed) == 0
    assert caplog.text.count("goes on from 2 to 3 epochs a fold") == 1
