"""A fold from its first step to its last, stopped anywhere, and what it leaves behind."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine.data.accumulate import WHOLE, Shares
from engine.data.batch import Batch
from engine.data.inputs import epoch_order, read_normalisation
from engine.experiment import Experiment
from engine.model.network import Prediction
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.checkpoint import load_last
from engine.training.loop import FoldTask, FoldTraining
from engine.training.records import Losses, Position
from engine.training.step import TrainingLoss, TrainStep
from tests.stopping import StoppedError

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)

# Six training frames in batches of two: three steps an epoch, two epochs.
STEPS, EPOCHS = 3, 2

ReadRun = Callable[[Path], dict[str, Any]]
OpenRun = Callable[..., Experiment]
MakeTask = Callable[..., FoldTask]


@pytest.fixture(scope="module")
def undisturbed(open_run: OpenRun, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = open_run(tmp_path_factory.mktemp("loop") / "run")
    FoldTraining(run.task(1), POLICY).run()
    return run.dir


def steps_saved(run: RunDir) -> int:
    """Steps of the whole fold that its checkpoint has behind it."""
    saved = load_last(run.last(1), "hash")
    return saved.position.epoch * STEPS + saved.position.step if saved else 0


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
    files = ["best.safetensors", "last.pt", "metrics.jsonl"]
    assert names == [*(f".{name}.sum" for name in files), *files]
    lines = metrics_of(undisturbed)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert set(line) == {
            *("epoch", "lr", "loss", "segmentation_loss", "depth_loss"),
            *("validation_loss", "miou", "pixel_acc", "train_s", "validation_s"),
        }
        assert line["loss"] > 0
        assert 0 <= line["miou"] <= line["pixel_acc"] <= 1
        assert line["train_s"] > 0


def test_a_fold_is_trained_when_its_last_epoch_is(undisturbed: RunDir, open_run: OpenRun) -> None:
    run = open_run(undisturbed.root)
    assert run.is_trained(1)
    assert run.position(1) == Position(EPOCHS)
    assert not run.is_trained(0)
    assert run.position(0) is None
    longer = open_run(undisturbed.root, training={"epochs": EPOCHS + 1})
    assert not longer.is_trained(1)
    assert longer.position(1) == Position(EPOCHS)


def test_the_best_weights_are_the_average_of_the_best_epoch(
    undisturbed: RunDir, open_run: OpenRun
) -> None:
    best = max(metrics_of(undisturbed), key=lambda line: float(line["miou"]))
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
        average = FoldTraining(
            open_run(undisturbed.root).task(1), POLICY
        ).learner.ema.network.state_dict()
        weights = load_file(undisturbed.best(1))
        assert all(torch.equal(weights[key], value) for key, value in average.items())


@pytest.mark.parametrize("steps", range(1, STEPS * EPOCHS + 1))
def test_stopped_after_any_step_it_goes_on_to_the_same_bytes(
    steps: int,
    make_task: MakeTask,
    undisturbed: RunDir,
    read_run: ReadRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = make_task()
    with monkeypatch.context() as patch:
        stop_after(steps, patch)
        with pytest.raises(StoppedError):
            FoldTraining(task, POLICY).run()
    # save_every is 2 and counts over the whole fold; the end of an epoch saves as well. The step
    # that the process died after was not saved.
    saved = max(done for done in (0, 2, STEPS, 4) if done < steps)
    assert steps_saved(task.run) == saved
    FoldTraining(task, POLICY).run()
    assert read_run(task.run.root) == read_run(undisturbed.root)


def test_stopped_between_metrics_and_checkpoint_an_epoch_is_not_counted_twice(
    make_task: MakeTask, undisturbed: RunDir, read_run: ReadRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task()
    with monkeypatch.context() as patch:
        replace_file = Path.replace

        def stop(self: Path, target: Path) -> Path:
            if target.name == "last.pt" and task.run.metrics(1).exists():
                raise StoppedError
            return replace_file(self, target)

        patch.setattr(Path, "replace", stop)
        with pytest.raises(StoppedError):
            FoldTraining(task, POLICY).run()
    assert len(metrics_of(task.run)) == 1
    FoldTraining(task, POLICY).run()
    assert read_run(task.run.root) == read_run(undisturbed.root)


def test_a_finished_fold_is_left_as_it_is(undisturbed: RunDir, open_run: OpenRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.fold(1).iterdir()}
    FoldTraining(open_run(undisturbed.root).task(1), POLICY).run()
    assert {path: path.stat().st_mtime_ns for path in undisturbed.fold(1).iterdir()} == before


def test_how_often_it_saves_changes_no_result(
    make_task: MakeTask, undisturbed: RunDir, read_run: ReadRun
) -> None:
    task = make_task(runtime={"save_every": 1, "log_every": 1})
    FoldTraining(task, POLICY).run()
    assert read_run(task.run.root) == read_run(undisturbed.root)


def test_another_seed_gives_other_weights(make_task: MakeTask, undisturbed: RunDir) -> None:
    task = make_task(training={"seed": 1})
    FoldTraining(task, POLICY).run()
    ours, theirs = load_file(task.run.best(1)), load_file(undisturbed.best(1))
    assert not all(torch.equal(ours[key], theirs[key]) for key in ours)


def spoil_step(fold: FoldTraining, steps: int) -> None:
    """Make the loss of the `steps`-th step from here NaN."""
    plain, calls = fold.step.loss, itertools.count(1)

    class Spoilt(TrainingLoss):
        def __call__(self, prediction: Prediction, batch: Batch, shares: Shares = WHOLE) -> Losses:
            losses = super().__call__(prediction, batch, shares)
            bad = next(calls) == steps
            return losses._replace(total=losses.total * float("nan")) if bad else losses

    fold.step.loss = Spoilt(plain.config, plain.class_weight_C, plain.operations)


@pytest.mark.parametrize(
    ("bad", "log_every", "saved"),
    [(2, 1000, 0), (3, 1000, 2), (4, 1000, 3), (5, 1, 4), (6, 1000, 4)],
)
def test_a_loss_that_is_not_finite_stops_the_fold_and_the_checkpoint_before_it_stays_good(
    bad: int,
    log_every: int,
    saved: int,
    make_task: MakeTask,
    undisturbed: RunDir,
    read_run: ReadRun,
) -> None:
    task = make_task(runtime={"log_every": log_every})
    fold = FoldTraining(task, POLICY)
    spoil_step(fold, bad)
    with pytest.raises(RuntimeError) as caught:
        fold.run()
    epoch, step = divmod(bad - 1, STEPS)
    order = epoch_order(task.config.training.seed, epoch, task.training)
    stems = ", ".join(task.dataset.train.samples[i].stem for i in order[2 * step : 2 * step + 2])
    assert str(caught.value).startswith(
        f"fold 1, epoch {epoch + 1}, step {step + 1}: the loss or its gradient is not finite; "
        f"samples {stems}. "
    )
    assert steps_saved(task.run) == saved
    # Once the cause is gone, it goes on as if nothing had happened.
    FoldTraining(task, POLICY).run()
    assert read_run(task.run.root) == read_run(undisturbed.root)


def test_only_whole_batches_are_trained_and_a_batch_is_no_larger_than_the_fold(
    make_task: MakeTask,
) -> None:
    task = make_task()

    def with_batch(size: int) -> FoldTask:
        training = task.config.training.model_copy(update={"batch_size": size})
        return replace(task, config=task.config.model_copy(update={"training": training}))

    assert len(task.training) == 6
    assert [with_batch(size).steps_per_epoch for size in (1, 2, 4, 6, 100)] == [6, 3, 1, 1, 1]
    assert with_batch(100).batch_size == 6
