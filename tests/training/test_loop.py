"""A fold from its first step to its last, stopped anywhere, and what it leaves behind."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine.config import Config
from engine.data.augment import epoch_order
from engine.data.folds import make_folds
from engine.data.normalisation import read_normalisation
from engine.frames.index import Dataset, load_dataset
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.runtime.operations import choose_operations
from engine.training import loss as loss_module
from engine.training.checkpoint import load_last
from engine.training.epoch_table import best_line, epoch_row
from engine.training.loop import (
    FoldTask,
    is_complete,
    stopped_at,
    train_fold,
)
from engine.training.loss import Losses
from engine.training.step import TrainStep

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)

# Six training frames in batches of two: three steps an epoch, two epochs.
STEPS, EPOCHS = 3, 2

ReadRun = Callable[[Path], dict[str, Any]]


class StoppedError(Exception):
    """Stands for a kill: nothing of the engine catches it."""


@pytest.fixture(scope="module")
def dataset(tiny_config: Config) -> Dataset:
    data = tiny_config.data
    return load_dataset(Path(data.root), data.classes, data.small_classes, need_depth=False)


def make_task(config: Config, dataset: Dataset, root: Path, **training: Any) -> FoldTask:
    section = config.training.model_copy(update=training)
    config = config.model_copy(update={"training": section})
    data = config.data
    folds = make_folds(
        dataset.train.samples, data.fold_kind, data.folds, data.fold_seed, data.blocks_per_fold
    )
    return FoldTask(
        config=config,
        dataset=dataset,
        run=RunDir(root),
        fold=1,
        training=folds.training(1),
        validation=folds.validation(1),
        config_hash="hash",
    )


@pytest.fixture
def task(tiny_config: Config, dataset: Dataset, tmp_path: Path) -> FoldTask:
    return make_task(tiny_config, dataset, tmp_path / "run")


@pytest.fixture(scope="module")
def undisturbed(
    tiny_config: Config, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    task = make_task(tiny_config, dataset, tmp_path_factory.mktemp("loop") / "run")
    train_fold(task, POLICY)
    return task.run


def metrics_of(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics(1).read_text(encoding="utf-8").splitlines()]


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process die when it has done `steps` steps."""
    call, done = TrainStep.__call__, [0]

    def counted(self: TrainStep, *arguments: Any) -> None:
        call(self, *arguments)
        done[0] += 1
        if done[0] == steps:
            raise StoppedError

    monkeypatch.setattr(TrainStep, "__call__", counted)


def test_a_fold_leaves_its_three_files_and_a_line_an_epoch(undisturbed: RunDir) -> None:
    names = sorted(path.name for path in undisturbed.fold(1).iterdir())
    assert names == ["best.safetensors", "last.pt", "metrics.jsonl"]
    lines = metrics_of(undisturbed)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert set(line) == {
            *("epoch", "lr", "loss", "segmentation_loss", "depth_loss"),
            *("miou", "pixel_acc", "train_s", "validation_s"),
        }
        assert line["loss"] > 0
        assert 0 <= line["miou"] <= line["pixel_acc"] <= 1
        assert line["train_s"] > 0
    assert is_complete(undisturbed, 1, EPOCHS, "hash")
    assert not is_complete(undisturbed, 1, EPOCHS + 1, "hash")
    assert not is_complete(undisturbed, 0, EPOCHS, "hash")


def test_the_best_weights_are_the_average_of_the_best_epoch(undisturbed: RunDir) -> None:
    best = best_line(metrics_of(undisturbed))
    with safe_open(undisturbed.best(1), framework="pt") as file:
        origin = json.loads(file.metadata()["roomsmith"])
    normalisation = read_normalisation(undisturbed.best(1))
    assert normalisation is not None
    assert origin == {
        "config_hash": "hash",
        "fold": "1",
        "epoch": str(best["epoch"]),
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
    }
    if best["epoch"] == EPOCHS:
        state = load_last(undisturbed, 1, "hash")
        assert state is not None
        weights = load_file(undisturbed.best(1))
        assert all(torch.equal(weights[key], value) for key, value in state["ema"].items())


@pytest.mark.parametrize("steps", range(1, STEPS * EPOCHS + 1))
def test_stopped_after_any_step_it_goes_on_to_the_same_bytes(
    steps: int,
    task: FoldTask,
    undisturbed: RunDir,
    read_run: ReadRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(steps, patch)
        with pytest.raises(StoppedError):
            train_fold(task, POLICY)
    # save_every is 2 and counts over the whole fold; the end of an epoch saves as well. The step
    # that the process died after was not saved.
    saved = max(done for done in (0, 2, STEPS, 4) if done < steps)
    position = stopped_at(task.run, 1, "hash")
    assert (position.epoch * STEPS + position.step if position else 0) == saved
    train_fold(task, POLICY)
    assert read_run(task.run.root) == read_run(undisturbed.root)


def test_stopped_between_metrics_and_checkpoint_an_epoch_is_not_counted_twice(
    task: FoldTask, undisturbed: RunDir, read_run: ReadRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        replace_file = Path.replace

        def stop(self: Path, target: Path) -> Path:
            if target.name == "last.pt" and task.run.metrics(1).exists():
                raise StoppedError
            return replace_file(self, target)

        patch.setattr(Path, "replace", stop)
        with pytest.raises(StoppedError):
            train_fold(task, POLICY)
    assert len(metrics_of(task.run)) == 1
    train_fold(task, POLICY)
    assert read_run(task.run.root) == read_run(undisturbed.root)


def test_a_finished_fold_is_left_as_it_is(
    undisturbed: RunDir, tiny_config: Config, dataset: Dataset
) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.fold(1).iterdir()}
    train_fold(make_task(tiny_config, dataset, undisturbed.root), POLICY)
    assert {path: path.stat().st_mtime_ns for path in undisturbed.fold(1).iterdir()} == before


def test_how_often_it_saves_changes_no_result(
    tiny_config: Config, dataset: Dataset, tmp_path: Path, undisturbed: RunDir, read_run: ReadRun
) -> None:
    task = make_task(tiny_config, dataset, tmp_path / "run", save_every=1, log_every=1)
    train_fold(task, POLICY)
    assert read_run(task.run.root) == read_run(undisturbed.root)


def test_another_seed_gives_other_weights(
    tiny_config: Config, dataset: Dataset, tmp_path: Path, undisturbed: RunDir
) -> None:
    task = make_task(tiny_config, dataset, tmp_path / "run", seed=1)
    train_fold(task, POLICY)
    ours, theirs = load_file(task.run.best(1)), load_file(undisturbed.best(1))
    assert not all(torch.equal(ours[key], theirs[key]) for key in ours)


def spoil_step(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of the `steps`-th step from here NaN."""
    loss, done = loss_module.training_loss, [0]

    def spoilt(*arguments: Any) -> Losses:
        done[0] += 1
        losses = loss(*arguments)
        return losses._replace(total=losses.total * float("nan")) if done[0] == steps else losses

    monkeypatch.setattr("engine.training.step.training_loss", spoilt)


@pytest.mark.parametrize(
    ("bad", "log_every", "saved"),
    [(2, 1000, 0), (3, 1000, 2), (4, 1000, 3), (5, 1, 4), (6, 1000, 4)],
)
def test_a_loss_that_is_not_finite_stops_the_fold_and_the_checkpoint_before_it_stays_good(
    bad: int,
    log_every: int,
    saved: int,
    tiny_config: Config,
    dataset: Dataset,
    tmp_path: Path,
    undisturbed: RunDir,
    read_run: ReadRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = make_task(tiny_config, dataset, tmp_path / "run", log_every=log_every)
    with monkeypatch.context() as patch:
        spoil_step(bad, patch)
        with pytest.raises(RuntimeError) as caught:
            train_fold(task, POLICY)
    epoch, step = divmod(bad - 1, STEPS)
    order = epoch_order(task.config.training.seed, epoch, task.training)
    stems = ", ".join(dataset.train.samples[i].stem for i in order[2 * step : 2 * step + 2])
    assert str(caught.value).startswith(
        f"fold 1, epoch {epoch + 1}, step {step + 1}: the loss or its gradient is not finite; "
        f"samples {stems}. "
    )
    position = stopped_at(task.run, 1, "hash")
    assert (position.epoch * STEPS + position.step if position else 0) == saved
    # Once the cause is gone, it goes on as if nothing had happened.
    train_fold(task, POLICY)
    assert read_run(task.run.root) == read_run(undisturbed.root)


def test_epochs_between_validations_are_not_scored_but_the_last_one_is(
    tiny_config: Config, dataset: Dataset, tmp_path: Path
) -> None:
    task = make_task(tiny_config, dataset, tmp_path / "run", validate_every=2, epochs=3)
    train_fold(task, POLICY)
    assert [line["epoch"] for line in metrics_of(task.run) if "miou" in line] == [2, 3]
    assert "-      -" in epoch_row(1, metrics_of(task.run)[:1], 3)


def test_only_whole_batches_are_trained_and_a_batch_is_no_larger_than_the_fold(
    task: FoldTask,
) -> None:
    def with_batch(size: int) -> FoldTask:
        training = task.config.training.model_copy(update={"batch_size": size})
        return replace(task, config=task.config.model_copy(update={"training": training}))

    assert len(task.training) == 6
    assert [with_batch(size).steps_per_epoch for size in (1, 2, 4, 6, 100)] == [6, 3, 1, 1, 1]
    assert with_batch(100).batch_size == 6


def test_the_first_of_equal_epochs_is_the_best() -> None:
    lines: list[dict[str, Any]] = [
        {"epoch": 1},
        {"epoch": 2, "miou": 0.5},
        {"epoch": 3, "miou": 0.5},
    ]
    assert best_line(lines)["epoch"] == 2
    assert best_line(lines[:1]) == {}


def test_validation_takes_the_frames_that_training_holds(
    tiny_config: Config, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {"source": "resident", "cache": str(tmp_path)}
    runtime = tiny_config.runtime.model_copy(update=changed)
    task = make_task(tiny_config.model_copy(update={"runtime": runtime}), dataset, tmp_path / "run")

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a file is read again")

    monkeypatch.setattr("engine.views.frame_batches.read_frame", read)
    train_fold(task, POLICY)
    assert all(0 < line["miou"] <= 1 for line in metrics_of(task.run))
