"""Sides take turns until their ratios are settled or their time is spent, three times at least."""

from collections.abc import Callable, Sequence

import pytest

from benchmarks.figures import OURS, Called, Limit, Work, line_of, rows_of, take_turns

_RATES = {"copy_bytes_s": 1e10, "gemm_flop_s": 1e11}


class Calls:
    """Stand-in sides that take the seconds they are told, and note who was called."""

    def __init__(self, **seconds: Sequence[float]) -> None:
        self.called: list[str] = []
        self.sides = {side: self._call(side, given) for side, given in seconds.items()}

    def _call(self, side: str, seconds: Sequence[float]) -> Callable[[], Called]:
        def call() -> Called:
            number = self.called.count(side)
            self.called.append(side)
            return Called(seconds[number % len(seconds)])

        return call

    def take(self, limit: Limit) -> dict[str, int]:
        """How often each side is called."""
        told: list[str] = []
        made = take_turns("row", self.sides, limit, told.append)
        assert len(told) == len(made[OURS])
        return {side: len(calls) for side, calls in made.items()}


# Ratios 1, 2 and 3 in turn: never settled.
_UNSETTLED = [1.0, 2.0, 3.0]


def test_without_a_budget_a_side_runs_every_round_in_alternating_order() -> None:
    calls = Calls(ours=[1.0], a=_UNSETTLED, b=_UNSETTLED)
    assert calls.take(Limit(4)) == {"ours": 4, "a": 4, "b": 4}
    assert calls.called[:6] == ["b", "a", "ours", "ours", "a", "b"]


def test_a_rival_whose_ratio_is_settled_stops_while_the_others_go_on() -> None:
    calls = Calls(ours=[1.0], steady=[3.0, 3.01], unsteady=_UNSETTLED)
    assert calls.take(Limit(9)) == {"ours": 9, "steady": 5, "unsteady": 9}
    # Interleaved to the last: after it has stopped, the others still alternate.
    assert calls.called[-4:] == ["ours", "unsteady", "unsteady", "ours"]


def test_all_stop_when_every_ratio_is_settled() -> None:
    assert Calls(ours=[1.0], a=[3.0], b=[2.0]).take(Limit(99)) == {"ours": 5, "a": 5, "b": 5}


@pytest.mark.parametrize(("side_s", "rounds"), [(0.0, 3), (39.0, 3), (40.0, 4), (59.0, 5)])
def test_a_slow_rival_is_called_while_its_own_time_lasts_but_three_times(
    side_s: float, rounds: int
) -> None:
    calls = Calls(ours=[1.0, 2.0], slow=[10.0], quick=_UNSETTLED)
    made = calls.take(Limit(7, side_s))
    assert made["slow"] == rounds
    assert made["quick"] == made["ours"] == (3 if side_s == 0 else 7)


def test_nothing_is_called_after_the_time_of_ours_is_spent() -> None:
    made = Calls(ours=[5.0], a=_UNSETTLED).take(Limit(9, 22.0))
    assert made == {"ours": 4, "a": 4}


def test_a_user_may_ask_for_fewer_rounds_than_three() -> None:
    assert Calls(ours=[1.0], a=_UNSETTLED).take(Limit(2)) == {"ours": 2, "a": 2}


def test_a_ratio_is_of_its_own_rounds_and_says_how_many() -> None:
    # Ours is slower from the sixth round on, when the steady rival has stopped.
    calls = Calls(ours=[1.0] * 5 + [2.0] * 4, steady=[3.0], unsteady=_UNSETTLED)
    made = take_turns("row", calls.sides, Limit(9), lambda _: None)
    mib = {side: {"peak_extra_mib": 1.0} for side in made}
    steady, unsteady = rows_of("row", made, mib, Work(10**9, 0), _RATES)
    assert (steady["rounds"], steady["ratio"], steady["median_s"]) == (5, 3.0, 1.0)
    assert steady["quartiles"] == [3.0, 3.0]
    assert steady["share_of_floor"] == pytest.approx(0.1)
    assert unsteady["rounds"] == 9
    told = "row against steady: ours 1 s, 3 s, ratio 3.00 (3.00 .. 3.00), 5 rounds"
    assert line_of(steady) == told
