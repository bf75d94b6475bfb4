"""A device that is not there is refused before anything is set up, and what to do is said."""

import pytest
import torch

from engine.config import RuntimeConfig
from engine.runtime.device import set_up_device


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"'cuda:1', but torch finds no GPU; use cpu or auto"):
        set_up_device(RuntimeConfig(device="cuda:1"))


def test_a_device_that_torch_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runtime\.device = 'abacus': .*; use auto, cpu or cuda"):
        set_up_device(RuntimeConfig(device="abacus"))
