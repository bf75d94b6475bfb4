"""A finished run keeps no `last.pt`, unless it is asked to, and is as whole without."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from engine import train
from engine.report.seal import is_sealed
from engine.rundir import RunDir, load_run
from engine.sums import remove
from engine.training.loop import FoldTraining

FinishedRun = Any  # defined in conftest.py, which cannot be imported
ReadRun = Callable[[Path], dict[str, Any]]

LASTS = {"fold0/last.pt", "fold1/last.pt"}


@pytest.fixture(scope="module")
def kept(finished_run: FinishedRun, tiny_toml: Path, tmp_path_factory: Any) -> RunDir:
    """The run of `finished_run` with its checkpoints; nobody may change it."""
    run = RunDir(tmp_path_factory.mktemp("kept") / "run")
    assert train.main([*arguments(tiny_toml, run), "--runtime.keep_last"]) == 0
    return run


@pytest.fixture
def untrainable(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: FoldTraining) -> NoReturn:
        raise AssertionError("nothing has to be trained")

    monkeypatch.setattr(FoldTraining, "run", forbidden)


def arguments(config: Path, run: RunDir) -> list[str]:
    return ["--config", str(config), "--out", str(run.root)]


def test_asked_to_it_keeps_them_and_all_else_is_the_same(
    kept: RunDir, finished_run: FinishedRun, read_run: ReadRun
) -> None:
    with_them, without = read_run(kept.root), read_run(finished_run.dir.root)
    for content in (with_them, without):
        content.pop("config.toml")  # which names the field
        content.pop("environment.json")  # which names the commit
    assert {name: with_them[name] for name in without} == without
    assert set(with_them) - set(without) == LASTS
    assert "last.pt deleted" in finished_run.stdout
    assert is_sealed(load_run(kept, {"runtime": {"keep_last": False}}), kept)


def test_a_run_of_before_with_them_is_opened_and_loses_them_when_it_is_finished_again(
    kept: RunDir, tiny_toml: Path, tmp_path: Path, untrainable: None
) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(kept.root, run.root)  # its seal is of other inodes
    assert train.main(arguments(tiny_toml, run)) == 0
    assert not any(run.last(fold).exists() for fold in (0, 1))
    assert not list(run.root.rglob(".last.pt*"))


def test_a_damaged_one_of_a_trained_fold_may_be_deleted_as_it_says(
    kept: RunDir, tiny_toml: Path, tmp_path: Path, read_run: ReadRun, untrainable: None
) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(kept.root, run.root)
    remove(run.summary)
    run.last(1).write_bytes(run.last(1).read_bytes()[:-1])
    told = rf"{run.last(1)} is damaged: .* delete it: a fold without its last epoch is then trained"
    with pytest.raises(ValueError, match=told):
        train.main(arguments(tiny_toml, run))
    run.last(1).unlink()
    assert train.main([*arguments(tiny_toml, run), "--runtime.keep_last"]) == 0
    assert set(read_run(kept.root)) - set(read_run(run.root)) == {"fold1/last.pt"}


def test_without_them_what_is_lost_is_made_again_from_the_weights(
    copied_run: RunDir,
    finished_run: FinishedRun,
    tiny_toml: Path,
    read_run: ReadRun,
    untrainable: None,
) -> None:
    shutil.rmtree(copied_run.oof)
    for path in (copied_run.temperature, copied_run.summary, copied_run.submission_zip):
        remove(path)
    assert train.main(arguments(tiny_toml, copied_run)) == 0
    assert read_run(copied_run.root) == read_run(finished_run.dir.root)


def test_stopped_between_their_deletion_and_the_seal_nothing_is_lost(
    copied_run: RunDir,
    finished_run: FinishedRun,
    tiny_toml: Path,
    read_run: ReadRun,
    untrainable: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    remove(copied_run.seal)
    with monkeypatch.context() as patch:
        patch.setattr("engine.experiment.seal", stop)
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments(tiny_toml, copied_run))
    assert not copied_run.seal.exists()
    assert train.main(arguments(tiny_toml, copied_run)) == 0
    assert copied_run.seal.exists()
    assert read_run(copied_run.root) == read_run(finished_run.dir.root)


def test_lost_metrics_of_a_trained_fold_are_named_and_nothing_is_trained(
    copied_run: RunDir, tiny_toml: Path, untrainable: None
) -> None:
    for path in (copied_run.summary, copied_run.metrics(0)):
        remove(path)
    with pytest.raises(ValueError, match=rf"{copied_run.metrics(0)} is damaged: it is gone; "):
        train.main(arguments(tiny_toml, copied_run))
