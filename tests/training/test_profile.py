"""The profiler behind `engine.train --profile`: what it looks at, and that it ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity

from engine.runtime.device import DevicePolicy, choose_operations
from engine.training import profile
from engine.training.loop import FoldTask
from tests.stopping import StoppedError

OPERATIONS = choose_operations("fused", torch.device("cpu"))
POLICY = DevicePolicy(torch.device("cpu"), None, compile=False, operations=OPERATIONS)


def test_a_traced_step_that_fails_ends_the_trace(
    make_task: Callable[..., FoldTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_profiler, asked, seen = torch.profiler.profile, [], []

    def noting(**options: Any) -> Any:
        asked.append(options)
        return open_profiler(**options)

    def failing(config: object, number: int, steps_per_epoch: int) -> float:
        if number == profile.WARM_STEPS + profile.STEPS:
            seen.append(torch._C._autograd._profiler_enabled())
            raise StoppedError
        return 1e-3

    monkeypatch.setattr(torch.profiler, "profile", noting)
    monkeypatch.setattr(profile, "learning_rate", failing)
    with pytest.raises(StoppedError):
        profile.profile_fold(make_task(), POLICY, tmp_path)
    assert seen == [True]
    assert not torch._C._autograd._profiler_enabled()
    # On a CPU it asks nothing of a GPU, which would have to be set up first.
    assert [options["activities"] for options in asked] == [[ProfilerActivity.CPU]]
