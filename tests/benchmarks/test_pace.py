"""A budget is shared among the parts that are left, and the time left is told."""

import io
import math
import sys

import pytest
from rich.console import Console

from benchmarks import pace as module
from benchmarks.figures import Limit
from benchmarks.pace import Pace


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_what_a_part_leaves_the_later_ones_have_and_what_it_takes_beyond_they_lack() -> None:
    clock = Clock()
    pace = Pace(90.0, ["a", "b", "c"], clock)
    assert pace.begin("a")
    assert pace.limit(11, 3) == Limit(11, 10.0)
    clock.now_s += 10
    # What preparing took is not the sides'.
    assert pace.limit(11, 2) == Limit(11, 10.0)
    assert pace.begin("b")
    assert pace.limit(7, 2) == Limit(7, 20.0)
    clock.now_s += 60
    assert pace.limit(7, 2) == Limit(7, 0.0)
    assert pace.begin("c")
    assert pace.limit(7, 1) == Limit(7, 20.0)
    assert pace.left_s == 20


def test_a_part_for_which_nothing_is_left_is_not_begun_and_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    pace = Pace(5.0, ["a", "b"], clock)
    assert pace.begin("a")
    clock.now_s += 6
    assert not pace.begin("b")
    told = "b: left out, the time is spent; give it a longer --budget-s\n"
    assert capsys.readouterr().err == told


def test_without_a_budget_nothing_ends_and_no_time_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pace = Pace()
    assert pace.begin("a")
    assert pace.limit(5, 2) == Limit(5, math.inf)
    pace.tell("row, round 1/5: ours 1 s")
    assert capsys.readouterr().err == "row, round 1/5: ours 1 s\n"


def test_plain_lines_tell_the_time_left_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with Pace(300.0, ["a"], clock) as pace:
        clock.now_s += 20
        pace.tell("a, round 1/5: ours 1 s")
    shown = capsys.readouterr()
    assert shown.err == "a, round 1/5: ours 1 s; at most 4 min 40 s left\n"
    assert shown.out == ""


def test_a_terminal_has_one_line_which_goes_when_all_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(module, "Console", lambda: terminal)
    with Pace(60.0, ["a"], Clock()) as pace:
        pace.tell("a, round 1/5: ours [1] s")
        pace.tell("a, round 2/5: ours 1 s")
        sys.stdout.write("a row\n")
    drawn = shown.getvalue()
    assert "a, round 1/5: ours [1] s; at most 1 min 00 s left" in drawn
    # Each message takes the last one's place; a row stays above it.
    assert drawn.count("\x1b[2K") >= 2
    assert "a row\n" in drawn
    assert capsys.readouterr().err == ""
