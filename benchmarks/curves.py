"""Cost against work: the same row at several sizes, and the power law through its points."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.fit import fit_power_law
from benchmarks.measure import OURS, Bench, Measured, measure
from benchmarks.rows.catalogue import Row
from benchmarks.rows.job import Job, with_section
from engine.config import Config


@dataclass(frozen=True)
class Curve:
    """A row at several sizes.

    Attributes:
        row: which.
        unit: of the work.
        points: amounts of work.
        job: makes the row's job of an amount.
        rounds: calls of each side at each point, unless the user names a number.
        frames: of every point, likewise; None = the row's.
    """

    row: str
    unit: str
    points: Sequence[int]
    job: Callable[[Bench, Row, int], Job]
    rounds: int
    frames: int | None = None


def curves() -> dict[str, Curve]:
    """All curves by name."""
    return {
        "frames": Curve("epoch", "frames", (50, 100, 200, 400, 795), _frames, 2),
        "crops": Curve("train step", "crop area", (1, 2, 4), _crops, 7),
        "runs": Curve("blend", "runs blended", (2, 3, 4, 6, 8), _runs, 1, frames=10),
    }


def measure_curve(
    bench: Bench, name: str, curve: Curve, row: Row, rounds: int, most: int | None
) -> dict[str, Any]:
    """Measure the points against the plain recipe and fit both sides.

    Args:
        bench: what rows share.
        name: of the curve.
        curve: where to measure.
        row: its row.
        rounds: calls of each side at each point.
        most: points of more frames are left out; None keeps all. Counts for the curve "frames".

    Raises:
        ValueError: fewer than two points are left.
    """
    points = [n for n in curve.points if most is None or name != "frames" or n <= most]
    if len(points) < 2:
        raise ValueError(
            f"the curve of {name} needs two points of {list(curve.points)}; raise --frames"
        )
    rival = next(iter(row.rivals))
    measured = {}
    for amount in points:
        title = f"{curve.row}, {amount} {curve.unit}"
        job = curve.job(bench, row, amount)
        measured[amount] = measure(bench, title, row, job, [rival], rounds)
    return curve_of(name, curve, rival, measured)


def curve_of(name: str, curve: Curve, rival: str, measured: dict[int, Measured]) -> dict[str, Any]:
    """The curve of the published JSON."""
    points = [
        {
            "work": amount,
            "median_s": statistics.median(at.seconds(OURS)),
            "rival_median_s": statistics.median(at.seconds(rival)),
            "peak_extra_mib": round(at.own_mib[OURS], 1),
            "rival_peak_extra_mib": round(at.own_mib[rival], 1),
            "peak_mapped_mib": round(at.mapped_mib[OURS], 1),
            "rival_peak_mapped_mib": round(at.mapped_mib[rival], 1),
        }
        for amount, at in measured.items()
    ]
    return {
        "name": name,
        "row": curve.row,
        "unit": curve.unit,
        "rival": rival,
        "points": points,
        "fit": _fit(points, "median_s"),
        "rival_fit": _fit(points, "rival_median_s"),
    }


def _fit(points: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    return asdict(fit_power_law([p["work"] for p in points], [p[key] for p in points]))


def _frames(bench: Bench, row: Row, frames: int) -> Job:
    return bench.job(row, frames)


def _runs(bench: Bench, row: Row, models: int) -> Job:
    return bench.job(row, row.frames, models)


def _crops(bench: Bench, row: Row, area: int) -> Job:
    """Twice the area by twice the width, four times by both sides; the frame grows with it."""
    tall, wide = {1: (1, 1), 2: (1, 2), 4: (2, 2)}[area]

    def larger(config: Config) -> Config:
        data = config.data
        return with_section(
            config,
            "data",
            input_hw=(tall * data.input_hw[0], wide * data.input_hw[1]),
            crop_hw=(tall * data.crop_hw[0], wide * data.crop_hw[1]),
        )

    job = bench.job(row, row.frames)
    subset = job.subset.configured(larger(job.config))
    return replace(job, subset=subset)
