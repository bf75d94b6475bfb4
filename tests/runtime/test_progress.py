"""Progress off a terminal is plain lines, on a terminal a bar; times read well."""

import time

import pytest

from engine.runtime.progress import duration, track, track_total
from kernels.compiling import Compiling


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves its one entry."""
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    return now_s


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (7.24, "7.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (60, "1 min 00 s"),
        (185.4, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3720, "1 h 02 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_off_a_terminal_a_line_comes_every_twenty_seconds_with_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with track("fold 0", 100) as advance:
        for _ in range(50):
            clock[0] += 1
            advance(1, "loss 0.5")
    assert capsys.readouterr().out.splitlines() == [
        "fold 0: 20/100, 1 min 20 s left, loss 0.5",
        "fold 0: 40/100, 1 min 00 s left, loss 0.5",
    ]


def test_time_left_counts_what_this_call_did_and_not_what_was_done_before(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with track("fold 0", 100, done=80) as advance:
        clock[0] += 30
        advance(10)
    assert capsys.readouterr().out == "fold 0: 90/100, 30.0 s left\n"


def test_time_left_follows_what_the_machine_does_now(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with track("fold 0", 1000) as advance:
        for seconds_each in [1] * 100 + [10] * 12:
            clock[0] += seconds_each
            advance(1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[4] == "fold 0: 100/1000, 15 min 00 s left"
    # The last minute and not the hundred units before it: ten seconds each.
    assert lines[-1] == "fold 0: 112/1000, 2 h 28 min left"


def test_nothing_is_said_of_the_time_left_before_it_is_known(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with track("fold 0", 100) as advance:
        clock[0] += 30
        advance(0, "loss 0.5")
    assert capsys.readouterr().out == "fold 0: 0/100, loss 0.5\n"


def test_time_in_which_kernels_are_compiled_is_no_part_of_the_estimate(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling = Compiling()
    monkeypatch.setattr("kernels.compiling.COMPILING", compiling)
    with track("fold 0", 100) as advance:
        compiling.begin()
        clock[0] += 500
        compiling.end()
        for _ in range(20):
            clock[0] += 1
            advance(1)
    assert capsys.readouterr().out == "fold 0: 20/100, 1 min 20 s left\n"


def test_short_work_off_a_terminal_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with track("quick", 3) as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr() == ("", "")


def test_a_total_may_be_told_later(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with track_total("checking files") as told:
        told(0, 40)
        clock[0] += 30
        told(30, 40)
    assert capsys.readouterr().out == "checking files: 30/40, 10.0 s left\n"


def test_no_work_at_all_is_no_error() -> None:
    with track_total("nothing"):
        pass
    with track("nothing", 0):
        pass


def test_on_a_terminal_a_bar_counts_and_disappears(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take any stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with track("fold 7", 4) as advance:
        advance(4, "loss 0.25")
    shown = capsys.readouterr().out
    assert "fold 7" in shown
    assert "4/4" in shown
    assert "loss 0.25" in shown
