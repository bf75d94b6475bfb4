"""A clock that stands still while kernels are compiled."""

import threading
import time

import pytest

from kernels import compiling
from kernels.compiling import Compiling, work_s


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves its one entry."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_kernels_that_ask_for_others_are_told_and_counted_once(
    now_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, str]] = []

    def info(message: str, how_often: str) -> None:
        told.append((threading.get_ident(), message % how_often))

    monkeypatch.setattr(compiling, "COMPILING", Compiling())
    monkeypatch.setattr(compiling._log, "info", info)
    begun_s = work_s()
    now_s[0] += 1
    compiling.COMPILING.begin()
    now_s[0] += 2
    compiling.COMPILING.begin()
    now_s[0] += 4
    assert compiling.COMPILING.seconds() == 6, "what is being compiled counts already"
    assert work_s() - begun_s == 1
    compiling.COMPILING.end()
    now_s[0] += 8
    compiling.COMPILING.end()
    now_s[0] += 16
    compiling.COMPILING.begin()
    compiling.COMPILING.end()
    assert compiling.COMPILING.seconds() == 14
    assert work_s() - begun_s == 17
    # Kernels that another thread compiles meanwhile are told too.
    here = threading.get_ident()
    assert [text for thread, text in told if thread == here] == [
        "compiling kernels (once per machine)"
    ]
