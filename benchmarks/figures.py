"""Sides called in turns, and what came of it as a row of the published JSON."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OURS = "ours"


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
    """

    frames: int
    loss: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    mious: tuple[float, ...] = ()
    pixels: int = 0
    singles: tuple[float, ...] = ()
    middles: tuple[list[int | list[int]], ...] = ()


@dataclass(frozen=True)
class Called:
    """One timed call.

    Attributes:
        seconds: it took.
        facts: about its result; nothing of a kernel's, which was itself checked.
        gpu_mib: most memory of PyTorch's tensors on the GPU since the side began; 0 without one.
    """

    seconds: float
    facts: Facts = Facts(0)
    gpu_mib: float = 0.0


@dataclass(frozen=True)
class Work:
    """What an operation cannot do without: the floor of any implementation.

    Attributes:
        bytes: its inputs once and its outputs once.
        flops: float32 additions, multiplications, comparisons; an exponential counts as twenty.
        threads: how many threads it is timed on.
    """

    bytes: int
    flops: int
    threads: int

    def floor_s(self, rates: Mapping[str, float]) -> float:
        """Seconds at the machine's best rates, memory and arithmetic fully overlapped."""
        return max(self.bytes / rates["copy_bytes_s"], self.flops / rates["gemm_flop_s"])


@dataclass(frozen=True)
class Taken:
    """What a side took.

    Attributes:
        seconds: of every round.
        mib: peak memory by its key in the JSON, such as `peak_extra_mib`.
    """

    seconds: Sequence[float]
    mib: Mapping[str, float]


def take_turns(
    name: str, calls: Mapping[str, Callable[[], Called]], rounds: int, say: Callable[[str], None]
) -> dict[str, list[Called]]:
    """Call every side once a round, in alternating order; the calls by the sides' names.

    Args:
        name: of what is measured, for messages.
        calls: of each side.
        rounds: how often each is called.
        say: told what each round took.
    """
    made: dict[str, list[Called]] = {side: [] for side in calls}
    for number in range(rounds):
        for side in calls if number % 2 else reversed(list(calls)):
            made[side].append(calls[side]())
        lasted = ", ".join(f"{side} {called[-1].seconds:.3g} s" for side, called in made.items())
        say(f"{name}, round {number + 1}/{rounds}: {lasted}")
    return made


def row_of(
    names: tuple[str, str], ours: Taken, theirs: Taken, work: Work, floor_s: float
) -> dict[str, Any]:
    """The row of the published JSON for a pair of names, of what was measured and of the rival."""
    return {
        "name": names[0],
        "rival": names[1],
        **compare(ours.seconds, theirs.seconds),
        **{key: round(mib, 1) for key, mib in ours.mib.items()},
        **{f"rival_{key}": round(mib, 1) for key, mib in theirs.mib.items()},
        "bytes": work.bytes,
        "flops": work.flops,
        "floor_s": floor_s,
        "share_of_floor": floor_s / statistics.median(ours.seconds),
    }


def compare(ours_s: Sequence[float], theirs_s: Sequence[float]) -> dict[str, Any]:
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


def _quartiles(values: Sequence[float]) -> list[float]:
    quartiles: list[float] = np.quantile(values, (0.25, 0.75)).tolist()
    return quartiles
