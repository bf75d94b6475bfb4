"""What is switched on for a deterministic step, and back; how long a run pays for compiling."""

import logging
import os
import warnings
from typing import Any

import pytest
import torch

from engine.config import Config
from engine.runtime import gpu
from engine.runtime.gpu import compiling_pays, deterministically, set_up_gpu


def state() -> tuple[bool, bool, bool, bool]:
    memory: Any = torch.utils.deterministic
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        memory.fill_uninitialized_memory,
    )


def test_a_call_runs_deterministically_and_leaves_all_as_it_was() -> None:
    before, seen = state(), []

    def act(value: int, *, fails: bool) -> int:
        seen.append(state())
        if fails:
            raise KeyError
        return value

    call = deterministically(act)
    assert call(3, fails=False) == 3
    assert state() == before
    with pytest.raises(KeyError):
        call(3, fails=True)
    assert state() == before
    # What has no deterministic form is told, not refused; memory that is written is not filled.
    assert seen == [(True, True, True, False)] * 2


def test_what_stays_different_is_told() -> None:
    histogram = deterministically(lambda: torch.randn(4).put_(torch.tensor([0]), torch.ones(1)))
    with pytest.warns(UserWarning, match="put_ does not have a deterministic implementation"):
        histogram()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.randn(4).put_(torch.tensor([0]), torch.ones(1))


def test_cublas_gets_workspaces_of_its_own_unless_someone_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, device = "CUBLAS_WORKSPACE_CONFIG", torch.device("cuda")
    monkeypatch.delenv(name, raising=False)
    set_up_gpu(device, deterministic=False)
    assert name not in os.environ
    set_up_gpu(device, deterministic=True)
    assert os.environ[name] == ":4096:8"
    monkeypatch.setenv(name, ":16:8")
    set_up_gpu(device, deterministic=True)
    assert os.environ[name] == ":16:8"


@pytest.mark.parametrize(("frames", "pays"), [(795, True), (7, False)])
def test_steps_are_compiled_where_all_folds_gain_more_than_it_takes(
    frames: int, pays: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # The published experiments: 5 folds of 50 epochs of 159 steps of 4.
    with caplog.at_level(logging.INFO, logger="engine"):
        assert compiling_pays(Config(), frames) == pays
    assert [record.getMessage() for record in caplog.records] == [
        "steps compiled: by exp093_5 on an H100, 39750 save 517 s, and compiling takes 68 s"
        if pays
        else "steps not compiled: by exp093_5 on an H100, 250 save 3 s, and compiling takes 68 s"
    ]


def test_it_pays_from_the_step_on_that_has_earned_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "COMPILE_S", 1.0)
    for saved_s, pays in ((1.01 / 39750, True), (0.99 / 39750, False)):
        monkeypatch.setattr(gpu, "SAVED_S", saved_s)
        assert compiling_pays(Config(), 795) == pays
