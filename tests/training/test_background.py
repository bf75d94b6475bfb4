"""A fold whose files are written by a thread leaves the same ones, and no error of it is lost."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.experiment import Experiment
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training import checkpoint
from engine.training.background import BackgroundFiles
from engine.training.loop import FoldTask, FoldTraining
from engine.training.records import Checkpoint, EpochLine, Position
from engine.training.step import TrainStep

CPU = torch.device("cpu")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))

ReadRun = Callable[[Path], dict[str, Any]]
OpenRun = Callable[..., Experiment]
MakeTask = Callable[..., FoldTask]
Write = Callable[[BackgroundFiles, Checkpoint, Callable[[Checkpoint], None]], None]

WAIT_S = 60
"""Longer than any thread here takes to come to what is waited for."""


@pytest.fixture(scope="module")
def at_once(open_run: OpenRun, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Fold 1 as a CPU leaves it."""
    run = open_run(tmp_path_factory.mktemp("background") / "run")
    fold = FoldTraining(run.task(1), POLICY)
    assert fold.files is checkpoint
    fold.run()
    return run.dir


@pytest.fixture
def task(make_task: MakeTask) -> FoldTask:
    return make_task()


@pytest.fixture
def ends_the_same(task: FoldTask, at_once: RunDir, read_run: ReadRun) -> Callable[[], None]:
    """`ends_the_same()`: the fold goes on to its end, with the files that a CPU leaves."""

    def run() -> None:
        begin(task).run()
        assert read_run(task.run.root) == read_run(at_once.root)

    return run


def begin(task: FoldTask) -> FoldTraining:
    """The fold, written as on a GPU."""
    fold = FoldTraining(task, POLICY)
    fold.files = BackgroundFiles(CPU)
    return fold


def saved(value: float) -> Checkpoint:
    return Checkpoint(Position(1), {"tensor": torch.full((3,), value), "parts": [{"lr": value}]})


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Write:
    """`write(files, saved, act)`: save a checkpoint, which `act` takes in the place of a file."""
    acts: dict[Path, Callable[[Checkpoint], None]] = {}

    def call(files: BackgroundFiles, state: Checkpoint, act: Callable[[Checkpoint], None]) -> None:
        path = Path(str(len(acts)))
        acts[path] = act
        files.save_last(path, state)

    monkeypatch.setattr(checkpoint, "save_last", lambda path, state: acts[path](state))
    return call


def test_a_fold_leaves_the_same_files(ends_the_same: Callable[[], None]) -> None:
    ends_the_same()


def test_files_are_renamed_in_order(task: FoldTask, monkeypatch: pytest.MonkeyPatch) -> None:
    names, replace = [], Path.replace

    def noted(self: Path, target: Path) -> Path:
        names.append((target.name, threading.current_thread() is threading.main_thread()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    begin(task).run()
    assert not any(on_main for _, on_main in names)
    files = [name for name, _ in names if not name.endswith(".sum")]
    # save_every is 2: after step 2, at the end of the epoch, after step 4, and at the end.
    epoch = ["best.safetensors", "metrics.jsonl", "metrics.csv", "last.pt"]
    assert files[:6] == ["last.pt", *epoch, "last.pt"]
    assert files[-3:] == epoch[1:]


@pytest.mark.parametrize(
    "steps",
    [pytest.param(n, marks=[pytest.mark.full] if n in (1, 4, 6) else []) for n in range(1, 7)],
)
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    steps: int,
    task: FoldTask,
    ends_the_same: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call, done = TrainStep.__call__, [0]

    def counted(self: TrainStep, *arguments: Any) -> None:
        call(self, *arguments)
        done[0] += 1
        if done[0] == steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", counted)
        with pytest.raises(KeyboardInterrupt):
            begin(task).run()
    # What was on its way when it was stopped is whole when `run` has ended.
    assert not list(task.run.root.rglob("*.tmp"))
    ends_the_same()


@pytest.mark.parametrize(
    ("failing", "steps"), [(1, 3), pytest.param(2, 4, marks=pytest.mark.full), (4, 6)]
)
def test_an_error_of_the_writer_ends_the_fold_at_the_next_save_or_its_end(
    failing: int,
    steps: int,
    task: FoldTask,
    ends_the_same: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_last, call = checkpoint.save_last, TrainStep.__call__
    saves, done = [0], [0]

    def fails(path: Path, state: Checkpoint) -> None:
        saves[0] += 1
        if saves[0] == failing:
            raise OSError(28, "No space left on device")
        save_last(path, state)

    def counted(self: TrainStep, *arguments: Any) -> None:
        done[0] += 1
        call(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_last", fails)
        patch.setattr(TrainStep, "__call__", counted)
        with pytest.raises(OSError, match="No space left"):
            begin(task).run()
    # Saves come after steps 2, 3, 4 and 6: one that fails is known at the next, or at the end.
    assert (saves[0], done[0]) == (failing, steps)
    ends_the_same()


def test_an_error_of_the_writer_ends_a_fold_that_is_not_trained(
    task: FoldTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    training = task.config.training.model_copy(update={"epochs": 0})
    untrained = replace(task, config=task.config.model_copy(update={"training": training}))
    monkeypatch.setattr(checkpoint, "save_last", fails)
    with pytest.raises(OSError, match="No space left"):
        begin(untrained).run()


def test_a_slow_writer_is_waited_for_by_the_next_save_and_by_no_step(write: Write) -> None:
    files, may_end, began = BackgroundFiles(CPU), threading.Event(), threading.Event()
    written: list[float] = []

    def slow(state: Checkpoint) -> None:
        began.set()
        assert may_end.wait(WAIT_S)
        written.append(float(state.content["tensor"][0]))

    write(files, saved(1.0), slow)  # returns though nothing is written yet
    assert began.wait(WAIT_S)
    assert written == []
    threading.Timer(0.05, may_end.set).start()
    write(files, saved(2.0), lambda state: written.append(float(state.content["tensor"][0])))
    assert written[0] == 1.0
    files.finish()
    assert written == [1.0, 2.0]


def test_what_is_written_is_what_was_when_it_was_saved(write: Write) -> None:
    files, may_end = BackgroundFiles(CPU), threading.Event()
    state, found = saved(1.0), list[Checkpoint]()

    def late(snapshot: Checkpoint) -> None:
        assert may_end.wait(WAIT_S)
        found.append(snapshot)

    write(files, state, late)
    state.content["tensor"].fill_(7.0)
    state.content["parts"][0]["lr"] = 7.0
    may_end.set()
    files.finish()
    assert found[0].content["tensor"].tolist() == [1.0] * 3
    assert found[0].content["parts"] == [{"lr": 1.0}]
    # The memory is the same each time: what is pinned is dear.
    held = found[0].content["tensor"]
    write(files, saved(3.0), found.append)
    files.finish()
    assert found[1].content["tensor"].data_ptr() == held.data_ptr()


def test_lines_are_those_of_the_moment_and_stand_before_the_checkpoint(
    write: Write, tmp_path: Path
) -> None:
    files, path = BackgroundFiles(CPU), tmp_path / "metrics.jsonl"
    lines = [EpochLine(epoch=1, train_s=1.0, validation_s=0.0)]
    found: list[int] = []
    files.write_metrics(path, lines)
    lines.append(EpochLine(epoch=2, train_s=1.0, validation_s=0.0))
    write(files, saved(1.0), lambda _: found.append(len(path.read_text("utf-8").splitlines())))
    files.finish()
    assert found == [1]


def test_a_snapshot_keeps_layouts_types_and_what_a_state_says_of_itself(write: Write) -> None:
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    state = torch.nn.BatchNorm2d(3).state_dict()
    files, found = BackgroundFiles(CPU), list[Checkpoint]()
    write(files, Checkpoint(Position(), {"weight": weight, "norm": state}), found.append)
    files.finish()
    content = found[0].content
    assert content["weight"].stride() == weight.stride()
    assert content["norm"].keys() == state.keys()
    assert content["norm"]._metadata == state._metadata  # type: ignore[attr-defined]
    assert content["norm"]["num_batches_tracked"].dtype == torch.int64


def test_files_wait_for_the_copies_and_the_thread_is_on_the_folds_gpu(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            assert blocking

        def record(self) -> None:
            order.append("record")

        def synchronize(self) -> None:
            assert threading.current_thread() is not threading.main_thread()
            order.append("wait")

    empty_like, copy_ = torch.empty_like, torch.Tensor.copy_

    def pinned(tensor: torch.Tensor, *, device: str, pin_memory: bool) -> torch.Tensor:
        assert (device, pin_memory) == ("cpu", True)
        return empty_like(tensor)

    def queued(self: torch.Tensor, other: torch.Tensor, *, non_blocking: bool) -> torch.Tensor:
        assert non_blocking
        order.append("copy")
        return copy_(self, other)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: order.append(str(device)))
    monkeypatch.setattr(torch, "empty_like", pinned)
    monkeypatch.setattr(torch.Tensor, "copy_", queued)
    files = BackgroundFiles(torch.device("cuda:1"))
    write(files, saved(1.0), lambda _: order.append("files"))
    files.finish()
    assert [event for event in order if event != "cuda:1"] == ["copy", "record", "wait", "files"]
    assert order.index("cuda:1") < order.index("wait")


@pytest.mark.gpu
def test_on_a_gpu_a_snapshot_is_the_state_of_its_moment(write: Write) -> None:
    gpu = torch.device("cuda:0")
    large = torch.arange(2**26, dtype=torch.float32, device=gpu)
    expected = large.cpu()
    files, found = BackgroundFiles(gpu), list[torch.Tensor]()
    write(
        files,
        Checkpoint(Position(), {"large": large}),
        lambda state: found.append(state.content["large"].clone()),
    )
    large.zero_()  # queued at once, behind the copy
    files.finish()
    assert torch.equal(found[0], expected)


@pytest.mark.gpu
def test_a_fold_on_a_gpu_is_written_in_the_background_and_goes_on_to_the_same_bytes(
    open_run: OpenRun, tmp_path: Path, read_run: ReadRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.runtime.device import set_up_device

    fields = {"device": "cuda", "deterministic": True, "save_every": 1}
    task, whole = (
        open_run(tmp_path / name, runtime=fields).task(1) for name in ("stopped", "whole")
    )
    policy = set_up_device(task.config.runtime)
    fold = FoldTraining(whole, policy)
    assert isinstance(fold.files, BackgroundFiles)
    fold.run()
    call, done = TrainStep.__call__, [0]

    def counted(self: TrainStep, *arguments: Any) -> None:
        call(self, *arguments)
        done[0] += 1
        if done[0] == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", counted)
        with pytest.raises(KeyboardInterrupt):
            FoldTraining(task, policy).run()
    FoldTraining(task, policy).run()
    assert read_run(task.run.root) == read_run(whole.run.root)
