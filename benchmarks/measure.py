"""How a row of `benchmarks.throughput` is measured: in turns, on the same frames.

Each side has a process of its own. A curve, cost against work, is a row at several sizes and the
power law through its points.
"""

import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import OURS, Figures, check_alike, rows_of, take_turns
from benchmarks.fit import fit_power_law
from benchmarks.known_rows import Row, rows
from benchmarks.pace import Pace
from benchmarks.sides import Side
from benchmarks.subset import Job, Subset, open_subset, with_section
from engine.config import Config

_POINT = ("median_s", "peak_extra_mib", "peak_mapped_mib")
"""What a point keeps of a row, of ours and of the rival."""


class Curve(NamedTuple):
    """A row at several sizes.

    Attributes:
        row: which.
        unit: of the work.
        points: amounts of work.
        rounds: calls of each side at each point, unless the user names a number.
    """

    row: str
    unit: str
    points: Sequence[int]
    rounds: int


CURVES = {
    "frames": Curve("epoch", "frames", (50, 100, 200, 400, 795), rounds=3),
    "crops": Curve("train step", "crop area", (1, 2, 4), rounds=7),
    "runs": Curve("blend", "runs blended", (2, 3, 4, 6, 8), rounds=3),
}
"""All curves by name."""


@dataclass(frozen=True)
class Bench:
    """What all rows of one benchmark share.

    Attributes:
        config: the experiment.
        folder: scratch space.
        rates: of the machine.
        runs: see `Job`.
        pace: how long each row may take.
        subsets: datasets of links by their number of frames.
    """

    config: Config
    folder: Path
    rates: Mapping[str, float]
    runs: tuple[Path, ...] = ()
    pace: Pace = field(default_factory=Pace)
    subsets: dict[int, Subset] = field(default_factory=dict)

    def job(self, row: Row, frames: int, models: int = 2) -> Job:
        """A job for the row, with empty folders of its own."""
        if frames not in self.subsets:
            self.pace.tell(f"linking and checking {frames} frames")
            folder = self.folder / "frames" / str(frames)
            self.subsets[frames] = open_subset(self.config, frames, folder)
        subset = self.subsets[frames].configured(row.configured(self.config))
        own = Path(tempfile.mkdtemp(dir=self.folder))
        folders = self.folder / "networks", own / "shared", own
        return Job(subset.config, subset.dataset, subset.folds, *folders, models, self.runs)

    def measure(self, row: Row, job: Job, rivals: Sequence[str], rounds: int) -> list[Figures]:
        """Prepare the sides, check their first results, then call them in turns.

        Args:
            row: what to measure.
            job: what the sides are told.
            rivals: names of the row's rivals to run.
            rounds: calls of each side at most.

        Returns:
            A row of the published JSON for each rival.

        Raises:
            RuntimeError: a rival's result is not ours, and nothing was timed then; or a side
                failed, and the message holds its traceback.
        """
        name = row.name
        if row.shared is not None:
            self.pace.tell(f"{name}: making what both sides start from")
            # In a process that ends: this one stays as it is.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                pool.submit(row.shared, job).result()
        with ExitStack() as stack:
            sides: dict[str, Side] = {}
            for side in (OURS, *rivals):
                self.pace.tell(f"{name}: first call of {side}, not timed")
                prepare = row.ours if side == OURS else row.rivals[side]
                own = replace(job, folder=job.folder / side.replace(", ", "-").replace(" ", "-"))
                sides[side] = stack.enter_context(Side(side, job.threads, prepare, own))
                first = sides[OURS].first.facts, sides[side].first.facts
                if side != OURS:
                    check_alike(f"{name}, ours and {side}", partial(row.check, *first))
            calls = {side: started.call for side, started in sides.items()}
            limit = self.pace.limit(rounds, len(calls))
            called = take_turns(name, calls, limit, self.pace.tell)
        mib = {side: started.mib for side, started in sides.items()}
        return rows_of(name, called, mib, row.work(job), self.rates)

    def measure_curve(self, name: str, rounds: int | None, frames: int | None) -> Figures:
        """Measure the points against the plain recipe and fit both sides.

        Args:
            name: of the curve.
            rounds: calls of each side at each point; None = the curve's.
            frames: training frames of every point, or, of the curve "frames", of its last; None =
                the curve's.

        Returns:
            The curve of the published JSON.

        Raises:
            ValueError: fewer than two points are left.
        """
        curve = CURVES[name]
        row = rows(self.config.runtime.device)[curve.row]
        amounts = [n for n in curve.points if frames is None or name != "frames" or n <= frames]
        if len(amounts) < 2:
            raise ValueError(
                f"the curve of {name} needs two points of {list(curve.points)}; raise --frames"
            )
        rival = next(iter(row.rivals))
        points = []
        for amount in amounts:
            point = replace(row, name=f"{curve.row}, {amount} {curve.unit}")
            job = self._point(name, row, amount, frames or row.frames)
            (found,) = self.measure(point, job, [rival], rounds or curve.rounds)
            kept = {key: found[key] for key in found if key.removeprefix("rival_") in _POINT}
            points.append({"work": amount, **kept})
        fits = {}
        for side in ("", "rival_"):
            seconds = [point[f"{side}median_s"] for point in points]
            fits[f"{side}fit"] = fit_power_law(amounts, seconds)._asdict()
        described = {"name": name, "row": curve.row, "unit": curve.unit, "rival": rival}
        return {**described, "points": points, **fits}

    def _point(self, name: str, row: Row, amount: int, frames: int) -> Job:
        """What the sides of a point are told."""
        if name == "frames":
            return self.job(row, amount)
        if name == "runs":
            return self.job(row, frames, amount)
        # Twice the area by twice the width, four times by both sides; the frame grows likewise.
        tall, wide = {1: (1, 1), 2: (1, 2), 4: (2, 2)}[amount]
        job = self.job(row, frames)
        data = job.config.data
        (height, width), (crop_height, crop_width) = data.input_hw, data.crop_hw
        input_hw, crop_hw = (tall * height, wide * width), (tall * crop_height, wide * crop_width)
        return job.configured(with_section(job.config, "data", input_hw=input_hw, crop_hw=crop_hw))
