"""Sides called in turns, and what came of it as rows of the published JSON."""

import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

OURS = "ours"

Rates = Mapping[str, float]
"""A machine's, see `benchmarks.timing.machine_rates`."""

Peaks = Mapping[str, Mapping[str, float]]
"""MiB of memory by side, and by its key in the JSON, such as `peak_extra_mib`."""

Figures = dict[str, Any]
"""A part of the published JSON."""


@dataclass(frozen=True)
class Facts:
    """What a side says of its result, for the other side's to be checked against.

    Attributes:
        frames: that it worked on.
        loss: of a training step.
        phases: seconds of a step by phase.
        mious: mIoU by temperature, or of a blend.
        pixels: that were counted.
        singles: mIoU of the runs that were blended.
        middles: by frame, what was decoded at its middle pixel.
        rounded: whether a network ran in INT8, which costs some mIoU: that is told, not checked.
        steps: of an epoch, where one was taken.
    """

    frames: int
    loss: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    mious: tuple[float, ...] = ()
    pixels: int = 0
    singles: tuple[float, ...] = ()
    middles: tuple[list[int | list[int]], ...] = ()
    rounded: bool = False
    steps: int = 0


class Called(NamedTuple):
    """One timed call.

    Attributes:
        seconds: it took.
        facts: about its result; nothing of a kernel's, which was itself checked.
        gpu_mib: most memory of PyTorch's tensors on the GPU since the side began; 0 without one.
    """

    seconds: float
    facts: Facts = Facts(0)
    gpu_mib: float = 0.0


class Work(NamedTuple):
    """What an operation cannot do without: the floor of any implementation.

    Attributes:
        bytes: its inputs once and its outputs once.
        flops: float32 additions, multiplications, comparisons; an exponential counts as twenty.
    """

    bytes: int
    flops: int

    def floor_s(self, rates: Rates) -> float:
        """Seconds at the machine's best rates, memory and arithmetic fully overlapped."""
        return max(self.bytes / rates["copy_bytes_s"], self.flops / rates["gemm_flop_s"])


Turns = Mapping[str, Sequence[Called]]
"""Calls by side, one a round: ours in as many rounds as the rival that had most."""

FEWEST = 3
"""Rounds of every side, however long they take: the median of fewer is no middle."""

_TIGHT, _FEWEST_TIGHT = 0.02, 5
"""A ratio is settled when its quartiles lie within 2 %, less than two runs of a command differ by;
quartiles of fewer than five rounds are their extremes."""


class Limit(NamedTuple):
    """When a side has been called often enough.

    Attributes:
        rounds: at most.
        side_s: seconds of a side's calls together; beyond the first three none goes past it.
    """

    rounds: int
    side_s: float = math.inf


def say(words: str) -> None:
    """Tell the user what is going on, beside the figures."""
    print(words, file=sys.stderr, flush=True)


def check_alike(name: str, check: Callable[[], None]) -> None:
    """Compare our result and a rival's.

    Args:
        name: of what is measured and of the rival, for the message.
        check: raises AssertionError if they do not match.

    Raises:
        RuntimeError: they do not match.
    """
    try:
        check()
    except AssertionError as error:
        raise RuntimeError(f"a result is wrong, so it was not timed: {name}: {error}") from error


def take_turns(
    name: str,
    calls: Mapping[str, Callable[[], Called]],
    limit: Limit,
    tell: Callable[[str], None] = say,
) -> Turns:
    """Call the sides once a round, in alternating order; the calls by the sides' names.

    A rival stops where its ratio is settled or its time is spent, and never takes turns again: its
    rounds are the first ones of ours. All stop with ours, which every ratio needs.

    Args:
        name: of what is measured, for messages.
        calls: of each side, ours among them.
        limit: when a side stops.
        tell: takes a message after each round.
    """
    made: dict[str, list[Called]] = {side: [] for side in calls}
    going = list(calls)
    for number in range(limit.rounds):
        for side in going if number % 2 else reversed(going):
            made[side].append(calls[side]())
        lasted = ", ".join(f"{side} {made[side][-1].seconds:.3g} s" for side in going)
        tell(f"{name}, round {number + 1}/{limit.rounds}: {lasted}")
        going = [side for side in going if not _has_done(side, made, limit.side_s)]
        if OURS not in going or going == [OURS]:
            break
    return made


def rows_of(name: str, calls: Turns, mib: Peaks, work: Work, rates: Rates) -> list[Figures]:
    """A row of the published JSON for each rival; ratio = rival / ours, round by round.

    Args:
        name: of what was measured.
        calls: ours among them.
        mib: peak memory.
        work: what no side can do without.
        rates: of the machine.
    """
    floor_s = work.floor_s(rates)
    return [
        {
            "name": name,
            "rival": rival,
            "rounds": len(theirs),
            **_compare(_seconds_of(ours), _seconds_of(theirs)),
            **{key: round(peak, 1) for key, peak in mib[OURS].items()},
            **{f"rival_{key}": round(peak, 1) for key, peak in mib[rival].items()},
            **work._asdict(),
            "floor_s": floor_s,
            "share_of_floor": floor_s / statistics.median(_seconds_of(ours)),
            **_facts_of(ours, theirs),
        }
        for rival, ours, theirs in _pairs(calls)
    ]


def line_of(row: Figures) -> str:
    """A row of the published JSON in a line."""
    low, high = row["quartiles"]
    return (
        f"{row['name']} against {row['rival']}: ours {row['median_s']:.3g} s, "
        f"{row['rival_median_s']:.3g} s, ratio {row['ratio']:.2f} ({low:.2f} .. {high:.2f}), "
        f"{row['rounds']} rounds"
    )


def _has_done(side: str, made: Turns, side_s: float) -> bool:
    """Whether a side has been called often enough."""
    seconds = _seconds_of(made[side])
    if len(seconds) < FEWEST:
        return False
    if sum(seconds) + seconds[-1] > side_s:
        return True
    if side == OURS or len(seconds) < _FEWEST_TIGHT:
        return False
    compared = _compare(_seconds_of(made[OURS]), seconds)
    low, high = compared["quartiles"]
    return bool(high - low <= _TIGHT * compared["ratio"])


def _pairs(calls: Turns) -> Iterator[tuple[str, Sequence[Called], Sequence[Called]]]:
    """Each rival's name, the calls of ours in its rounds, and its own."""
    for rival, theirs in calls.items():
        if rival != OURS:
            yield rival, calls[OURS][: len(theirs)], theirs


def _seconds_of(calls: Sequence[Called]) -> list[float]:
    return [called.seconds for called in calls]


def _compare(ours_s: Sequence[float], theirs_s: Sequence[float]) -> Figures:
    """Medians, quartiles, and the ratio rival / ours, round by round."""
    # A phase may take no time at all on one side.
    ratios = [theirs / max(ours, 1e-9) for ours, theirs in zip(ours_s, theirs_s, strict=True)]
    return {
        "median_s": statistics.median(ours_s),
        "rival_median_s": statistics.median(theirs_s),
        "ratio": statistics.median(ratios),
        "quartiles": _quartiles(ratios),
        "quartiles_s": _quartiles(ours_s),
        "rival_quartiles_s": _quartiles(theirs_s),
    }


def _quartiles(values: Sequence[float]) -> Any:
    return np.quantile(values, (0.25, 0.75)).tolist()


def _facts_of(ours: Sequence[Called], theirs: Sequence[Called]) -> Figures:
    """What the sides said of their results, as it is published."""
    first, rival = ours[0].facts, theirs[0].facts
    found: Figures = {"frames": first.frames} if first.frames else {}
    if first.mious:
        found |= {"miou": max(first.mious), "rival_miou": max(rival.mious)}
    # A recorded step of ours has fewer phases.
    common = [phase for phase in first.phases if phase in rival.phases]
    if common:
        sides = [[called.facts.phases for called in side] for side in (ours, theirs)]
        found["phases"] = {p: _compare(*([s[p] for s in side] for side in sides)) for p in common}
    return found
