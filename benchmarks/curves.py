"""Cost against work: the same row at several sizes, and the power law through its points."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.fit import fit_power_law
from benchmarks.measure import Bench, measure
from benchmarks.rows.catalogue import Row
from benchmarks.rows.job import Job
from benchmarks.subset import with_section

_POINT = ("median_s", "peak_extra_mib", "peak_mapped_mib")
"""What a point keeps of a row, of ours and of the rival."""


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
        "frames": Curve("epoch", "frames", (50, 100, 200, 400, 795), Bench.job, 2),
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

    Returns:
        The curve of the published JSON.

    Raises:
        ValueError: fewer than two points are left.
    """
    amounts = [n for n in curve.points if most is None or name != "frames" or n <= most]
    if len(amounts) < 2:
        raise ValueError(
            f"the curve of {name} needs two points of {list(curve.points)}; raise --frames"
        )
    rival = next(iter(row.rivals))
    points = []
    for amount in amounts:
        title = f"{curve.row}, {amount} {curve.unit}"
        (found,) = measure(bench, title, row, curve.job(bench, row, amount), [rival], rounds)
        kept = {key: found[key] for key in found if key.removeprefix("rival_") in _POINT}
        points.append({"work": amount, **kept})
    fits = {
        f"{side}fit": asdict(fit_power_law(amounts, [point[f"{side}median_s"] for point in points]))
        for side in ("", "rival_")
    }
    described = {"name": name, "row": curve.row, "unit": curve.unit, "rival": rival}
    return {**described, "points": points, **fits}


def _runs(bench: Bench, row: Row, models: int) -> Job:
    return bench.job(row, row.frames, models)


def _crops(bench: Bench, row: Row, area: int) -> Job:
    """Twice the area by twice the width, four times by both sides; the frame grows with it."""
    tall, wide = {1: (1, 1), 2: (1, 2), 4: (2, 2)}[area]
    job = bench.job(row, row.frames)
    data = job.config.data
    larger = {
        name: (tall * height, wide * width)
        for name, (height, width) in (("input_hw", data.input_hw), ("crop_hw", data.crop_hw))
    }
    return job.configured(with_section(job.config, "data", **larger))
