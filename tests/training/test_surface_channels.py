"""A fold whose network sees surfaces: trained, validated and stopped midway."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.loop import FoldTask, FoldTraining

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
