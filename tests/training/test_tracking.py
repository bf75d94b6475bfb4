"""Epochs shown by TensorBoard, Weights & Biases and MLflow; nothing that is trained knows of it."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine import early, train
from engine.early import check_train
from engine.run_log import logged
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.checkpoint import read_metrics
from engine.training.loop import FoldTask, FoldTraining
from engine.training.records import EpochLine
from engine.training.step import TrainStep
from engine.training.tracking.tracker import NAMES, figures_of, tracked
from tests.stopping import StoppedError

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)
TENSORBOARD = {"report": {"tensorboard": True}}

MakeTask = Callable[..., FoldTask]
Scalars = dict[str, list[tuple[int, float]]]


def scalars(run: RunDir, fold: int = 1) -> Scalars:
    """Step and value by tag, as TensorBoard itself reads a fold."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.root / "tensorboard" / f"fold{fold}"))
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def told(lines: list[EpochLine]) -> Scalars:
    """What TensorBoard should read: float32 of what the lines say."""
    told: Scalars = {}
    for line in lines:
        for tag, value in figures_of(line).items():
            told.setdefault(tag, []).append((line.epoch, torch.tensor(value).item()))
    return told


def stop_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    call, done = TrainStep.__call__, [0]

    def counted(self: TrainStep, *arguments: Any) -> None:
        call(self, *arguments)
        done[0] += 1
        if done[0] == steps:
            raise StoppedError

    patch.setattr(TrainStep, "__call__", counted)


def test_every_figure_of_a_line_has_a_name() -> None:
    assert [*NAMES, "epoch"] == [*sorted(NAMES, key=list(EpochLine.model_fields).index), "epoch"]
    assert set(NAMES) == set(EpochLine.model_fields) - {"epoch", "stopped_early"}
    line = EpochLine(epoch=1, loss=0.5, train_s=1.0, validation_s=0.0)
    assert figures_of(line) == {
        "loss/training": 0.5,
        "seconds/training": 1.0,
        "seconds/validation": 0.0,
    }


def test_tensorboard_reads_what_the_metrics_say(make_task: MakeTask) -> None:
    task = make_task(**TENSORBOARD, training={"validate_every": 2, "epochs": 3})
    FoldTraining(task, POLICY).run()
    lines = read_metrics(task.run.metrics(1), 3)
    assert scalars(task.run) == told(lines)
    assert [step for step, _ in scalars(task.run)["loss/validation"]] == [2, 3]


def test_a_resumed_fold_shows_nothing_that_was_ahead_of_its_checkpoint(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(**TENSORBOARD)
    with monkeypatch.context() as patch:
        stop_after(4, patch)  # in the second epoch, after a checkpoint in it
        with pytest.raises(StoppedError):
            FoldTraining(task, POLICY).run()
    # As if the process had died between the second epoch's line and its checkpoint.
    (first,) = read_metrics(task.run.metrics(1), 1)
    ahead = first.model_copy(update={"epoch": 2, "loss": 99.0})
    with tracked(task.config, task.run, 1, [first, ahead]):
        pass
    assert scalars(task.run)["loss/training"][1] == (2, 99.0)
    FoldTraining(task, POLICY).run()
    assert scalars(task.run) == told(read_metrics(task.run.metrics(1), 2))
    assert len(list((task.run.root / "tensorboard" / "fold1").iterdir())) == 1


class Recorded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation with the shapes and types of its tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [f"{a.dtype}{list(a.shape)}" for a in args if isinstance(a, torch.Tensor)]
        self.operations.append(f"{func} {' '.join(tensors)}")
        return func(*args, **(kwargs or {}))


def test_with_everything_on_a_step_is_the_same_operations_and_the_weights_the_same_bytes(
    open_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, traces, files = TrainStep.__call__, dict[bool, list[str]](), dict[bool, list[bytes]]()
    for on in (False, True):
        recorded = Recorded()

        def record(self: TrainStep, *arguments: Any, into: Recorded = recorded) -> None:
            with into:
                call(self, *arguments)

        report = {"page": on, "tensorboard": on}
        run = open_run(tmp_path / f"run{on:d}", report=report)
        run.dir.root.mkdir()
        run.dir.config.write_text("", encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(TrainStep, "__call__", record)
            if on:
                with logged(run.dir):
                    FoldTraining(run.task(1), POLICY).run()
            else:
                FoldTraining(run.task(1), POLICY).run()
        traces[on] = recorded.operations
        files[on] = [path.read_bytes() for path in (run.dir.best(1), run.dir.last(1))]
        assert run.dir.log.exists() == on == (run.dir.root / "tensorboard").exists()
    assert traces[True] == traces[False]
    assert len(traces[True]) > 6 * 100, "six steps, each of hundreds"
    assert any("boundary_ce" in operation for operation in traces[True])
    assert files[True] == files[False]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_done(
    name: str, tiny_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "_is_installed", lambda package: package != name)
    arguments = ["--config", str(tiny_toml), "--out", str(tmp_path / "run"), f"--report.{name}"]
    with pytest.raises(RuntimeError) as caught:
        train.main(arguments)
    assert f"pip install {name}, or use --report.{name} false" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_needs_no_tracker(
    finished_run: Any, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "_is_installed", lambda _: False)
    report = tiny_config.report.model_copy(update={"wandb": True})
    config = tiny_config.model_copy(update={"report": report})
    check_train(config, finished_run.dir, [0, 1], resume=False)


def test_a_tracker_that_fails_is_told_and_the_fold_goes_on(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from engine.training.tracking.event_file import EventFile

    def refuse(self: EventFile, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventFile, "log", refuse)
    task = make_task(**TENSORBOARD)
    with caplog.at_level(logging.WARNING, logger="engine"):
        FoldTraining(task, POLICY).run()
    assert caplog.messages == [
        "fold 1 goes on without tensorboard: [Errno 28] No space left on device"
    ]
    assert len(read_metrics(task.run.metrics(1), 2)) == 2


def journal(content: bytes) -> list[bytes]:
    """The records of a W&B file: LevelDB's log format behind a header of seven bytes."""
    records, part, at = list[bytes](), b"", 7
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            records.append(part)
            part = b""
    return records


@pytest.mark.filterwarnings("ignore")  # of W&B about itself
def test_wandb_keeps_a_run_of_every_epoch_offline(make_task: MakeTask) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    task = make_task(report={"wandb": True})
    for _ in range(2):  # the second call replaces what the first has kept
        lines = [EpochLine(epoch=n, loss=1 / n, train_s=1.0, validation_s=0.5) for n in (1, 2)]
        with tracked(task.config, task.run, 1, lines[:1]) as show:
            show(lines[1])
    (path,) = (task.run.root / "wandb" / "fold1").glob("wandb/offline-run-*/run-*.wandb")

    def rows() -> list[dict[str, Any]]:
        found = []
        for content in journal(path.read_bytes()):
            record = Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({item.nested_key[0]: json.loads(item.value_json) for item in items})
        return found

    deadline_s = time.monotonic() + 20
    while len(rows()) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.05)  # W&B's own process writes until a moment after the run has ended
    assert [{key: row[key] for key in ("_step", "loss/training")} for row in rows()] == [
        {"_step": 1, "loss/training": 1.0},
        {"_step": 2, "loss/training": 0.5},
    ]


@pytest.mark.filterwarnings("ignore")  # of MLflow about its own packages
def test_mlflow_keeps_a_run_of_every_epoch_offline(make_task: MakeTask) -> None:
    pytest.importorskip("sqlalchemy")
    mlflow = pytest.importorskip("mlflow")
    task = make_task(report={"mlflow": True})
    task.run.root.mkdir()
    for _ in range(2):
        lines = [EpochLine(epoch=n, loss=1 / n, train_s=1.0, validation_s=0.5) for n in (1, 2)]
        with tracked(task.config, task.run, 1, lines[:1]) as show:
            show(lines[1])
    client = mlflow.MlflowClient(f"sqlite:///{task.run.root / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("run")
    (run,) = client.search_runs([experiment.experiment_id])  # the first call's is deleted
    history = client.get_metric_history(run.info.run_id, "loss/training")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    assert run.data.params["training.epochs"] == "2"
    assert run.info.status == "FINISHED"
