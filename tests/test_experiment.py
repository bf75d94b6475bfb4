"""What an experiment decides of a GPU, on a stand-in for one, and what it does between folds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import experiment
from engine.config import Config
from engine.experiment import Experiment, _train_folds, open_experiment
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy, choose_operations
from engine.runtime.recorded import RecordedRuntime

Opened = Callable[..., Experiment]


@pytest.fixture
def opened(tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """`opened(replay=..., compile=...)`: the tiny run, where a device replays its steps or not."""

    def make(*, replay: bool, **runtime: Any) -> Experiment:
        cpu = torch.device("cpu")
        operations = choose_operations("fused", cpu)
        policy = DevicePolicy(cpu, None, compile=False, operations=operations, replay=replay)
        monkeypatch.setattr(experiment, "set_up_device", lambda _: policy)
        fields = tiny_config.runtime.model_copy(update=runtime)
        return open_experiment(
            tiny_config.model_copy(update={"runtime": fields}), RunDir(tmp_path / "run")
        )

    return make


def test_replayed_steps_are_compiled_where_that_pays_unless_the_config_says(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def pays(_: Config, frames: int) -> bool:
        asked.append(frames)
        return True

    monkeypatch.setattr(experiment, "compiling_pays", pays)
    run = opened(replay=True)
    assert run.policy.compile
    assert asked == [12]
    run.begin(0)
    assert RecordedRuntime.read(run.dir.runtime(0)).compile == "on"
    assert not opened(replay=True, compile="off").policy.compile
    assert not opened(replay=False).policy.compile
    monkeypatch.setattr(experiment, "compiling_pays", lambda *_: False)
    assert not opened(replay=True).policy.compile


def test_what_is_asked_of_the_gradients_is_recorded_with_the_fold(opened: Opened) -> None:
    for asked in (False, True):
        run = opened(replay=False, deterministic=asked)
        run.begin(0)
        assert RecordedRuntime.read(run.dir.runtime(0)).deterministic == asked


@pytest.mark.parametrize(("device", "frees"), [("cuda:0", ["free"]), ("cpu", [])])
def test_a_gpu_gets_its_memory_back_between_folds(
    device: str, frees: list[str], opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, order = opened(replay=False), list[str]()
    policy = DevicePolicy(torch.device(device), None, False, run.policy.operations)

    class Fold:
        def __init__(self, task: Any, _: DevicePolicy, *, world: None) -> None:
            self.fold = task.fold

        def run(self) -> None:
            order.append(f"fold {self.fold}")  # no frames are kept

        def __del__(self) -> None:
            order.append("gone")

    monkeypatch.setattr(Experiment, "begin", lambda self, fold: (self.task(fold), policy))
    monkeypatch.setattr(experiment, "FoldTraining", Fold)
    monkeypatch.setattr(experiment, "free_recordings", lambda: order.append("free"))
    _train_folds(run, [0, 1])
    assert order == ["fold 0", "gone", *frees, "fold 1", "gone", *frees]
