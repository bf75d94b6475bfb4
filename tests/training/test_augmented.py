"""Folds whose networks see surfaces, and one with all of augmentation, stopped and resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.experiment import Experiment
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.loop import FoldTask, FoldTraining
from engine.training.step import TrainStep
from tests.stopping import StoppedError

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)


@pytest.mark.parametrize(("kind", "channels"), [("rgbdn", 7), ("rgbhha", 6)])
def test_a_fold_learns_from_surfaces(
    kind: str, channels: int, make_task: Callable[..., FoldTask], tmp_path: Path
) -> None:
    runtime = {"source": "resident", "cache": str(tmp_path / "cache")}
    task = make_task(training={"epochs": 1}, model={"input": kind}, runtime=runtime)
    fold = FoldTraining(task, POLICY)
    batch = next(fold.open_source().batches(fold.draws(0, 0)))
    assert batch.image_BCHW.shape[1] == channels
    assert (batch.image_BCHW[:, 4:] != 0).any(dim=1).float().mean() > 0.5
    fold.run()
    assert task.run.best(task.fold).exists()
    (line,) = fold.metrics
    assert line.miou is not None
    assert line.miou > 0


LOOKS = {
    "scale_range": (0.5, 2.0),
    "scale_p": 1.0,
    "jitter_p": 1.0,
    "hue": 0.1,
    "saturation": 0.5,
    "depth_dropout": 0.5,
}


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_an_augmented_fold_that_is_resumed_leaves_the_same_bytes(
    mix: float, open_run: Callable[..., Experiment], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "data": {**LOOKS, "class_mix": mix},
        "model": {"input": "rgbhha"},
        "training": {"epochs": 1},
        "runtime": {"save_every": 2},
    }
    whole, broken = (open_run(tmp_path / name, **changes).task(1) for name in ("a", "b"))
    FoldTraining(whole, POLICY).run()
    call, done = TrainStep.__call__, []

    def counted(self: TrainStep, *arguments: Any) -> None:
        call(self, *arguments)
        done.append(arguments)
        if len(done) == 3:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "__call__", counted)
        with pytest.raises(StoppedError):
            FoldTraining(broken, POLICY).run()
    FoldTraining(broken, POLICY).run()
    ours, theirs = (task.run.best(1).read_bytes() for task in (whole, broken))
    assert ours == theirs
