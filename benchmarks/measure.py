"""Every row of `benchmarks.throughput`, and how it is measured: in turns, on the same frames.

A row has its sides, what they are checked by and how often they run, each side in a process of its
own. A curve, cost against work, is a row at several sizes and the power law through its points.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import OURS, Facts, Figures, Work, check_alike, rows_of, say, take_turns
from benchmarks.fit import fit_power_law
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.selection import grid_weights, slsqp_weights
from benchmarks.rows import light, ours, plain, work
from benchmarks.sides import Prepared, Side
from benchmarks.subset import Job, Subset, open_subset, with_section
from engine.config import Config

Rivals = Mapping[str, Callable[[Job], Prepared]]

_SCORE_TOLERANCE = 0.002
"""mIoU; OpenCV rounds resized images to bytes, the engine does not."""

_SHARED = {
    "train step": ours.batch,
    "validation": ours.networks,
    "oof": ours.networks,
    "blend": ours.stores,
}
"""What is made before a row's sides are started."""

_VIEWS = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5), "temperatures": (0.7, 0.8, 0.9, 1.0), "flip": True}
"""Ten views and four temperatures, as the published experiments have."""

_CHANGES: dict[str, dict[str, dict[str, object]]] = {
    "train step": {"model": {"dropout": 0.0, "drop_path": 0.0}},
    "epoch": {"training": {"epochs": 1, "validate_every": 1}},
    "oof": {"inference": _VIEWS},
    "chain": {"data": {"folds": 2}, "training": {"epochs": 3, "validate_every": 3}},
}
"""By row, section and field. A step without dropout, so that both sides' first loss is the same
number; two folds of three epochs in a chain, validated after the last."""

_POINT = ("median_s", "peak_extra_mib", "peak_mapped_mib")
"""What a point keeps of a row, of ours and of the rival."""


def _alike(ours: Facts, theirs: Facts) -> None:
    """The same frames, pixels and colours, and scores and a first loss that are alike."""
    assert ours.frames == theirs.frames, f"frames: {ours.frames} and {theirs.frames}"
    assert ours.pixels == theirs.pixels, f"pixels: {ours.pixels} and {theirs.pixels}"
    for number, pair in enumerate(zip(ours.middles, theirs.middles, strict=True)):
        assert pair[0] == pair[1], f"frame {number}, middle pixel: {pair[0]} and {pair[1]}"
    # Same batch, same weights; half precision rounds.
    gap = abs(ours.loss - theirs.loss)
    assert gap <= 0.01 * ours.loss, f"first losses are {ours.loss} and {theirs.loss}"
    gaps = [abs(a - b) for a, b in zip(ours.mious, theirs.mious, strict=True)]
    assert max(gaps, default=0) < _SCORE_TOLERANCE, f"mIoU: {ours.mious} and {theirs.mious}"


def _not_worse(ours: Facts, theirs: Facts) -> None:
    """Ours is not worse, but for pixels that tie to the last bit."""
    assert ours.mious[0] > theirs.mious[0] - 1e-4, f"mIoU: {ours.mious} and {theirs.mious}"


def _blends_hold(ours: Facts, theirs: Facts) -> None:
    """Both blends score as well as their own runs, but for the maps' half size."""
    assert ours.frames == theirs.frames, f"frames: {ours.frames} and {theirs.frames}"
    for name, facts in (("ours", ours), ("plain", theirs)):
        gap = max(facts.singles) - facts.mious[0]
        assert gap < 0.05, f"{name}: the blend scores {gap:.4f} less than the best run"


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        name: for messages and the JSON.
        ours: prepares our side.
        rivals: prepare the other sides, by name; the first is the plain recipe.
        work: what no side can do without.
        frames: training frames, unless the user names a number.
        rounds: calls of each side, likewise.
        check: takes our first result and a rival's; raises AssertionError if they do not match.
        shared: makes, once, what both sides start from.
        changes: of the experiment's config, by section and field.
    """

    name: str
    ours: Callable[[Job], Prepared]
    rivals: Rivals
    work: Callable[[Job], Work]
    frames: int
    rounds: int
    check: Callable[[Facts, Facts], None] = _alike
    shared: Callable[[Job], None] | None = None
    changes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def configured(self, config: Config) -> Config:
        """The experiment as this row has it."""
        for section, changes in self.changes.items():
            config = with_section(config, section, **changes)
        return config


def rows(device: str) -> dict[str, Row]:
    """All rows by name, with the rivals that make sense on the device of both sides' networks."""
    published = Recipe(device)
    # What a user may already do to the recipe to make it faster.
    passes = {"plain, shared passes": published._replace(shared_passes=True)}
    faster = {"plain, channels-last": published._replace(channels_last=True)}
    if device != "cpu":
        faster = {"plain, AMP": published._replace(amp=True)}
        quick = published._replace(amp=True, channels_last=True)
        faster["plain, AMP, channels-last"] = quick
        faster["plain, AMP, channels-last, compiled"] = quick._replace(compiled=True)

    def by(side: Callable[..., Prepared], more: Mapping[str, Recipe] | None = None) -> Rivals:
        recipes = {"plain": published, **(more or {})}
        return {name: partial(side, recipe=recipe) for name, recipe in recipes.items()}

    decoders: Rivals = {"plain": light.decoding_by_opencv, "Pillow": light.decoding_by_pillow}
    searches: Rivals = {
        "plain": partial(light.blending_by, search=grid_weights),
        "plain SLSQP": partial(light.blending_by, search=slsqp_weights),
    }
    found = [
        Row("data cached", ours.data_cached, by(plain.data_cached), work.data_cached, 200, 7),
        Row("data cold", ours.data_cold, by(plain.data_cold), work.data_cold, 200, 5),
        Row("decode", light.decoding, decoders, work.decode, 200, 7),
        Row("train step", ours.train_step, by(plain.train_step, faster), work.train_step, 40, 15),
        Row("validation", ours.validation, by(plain.validation), work.validation, 200, 5),
        Row("epoch", ours.epoch, by(plain.epoch, faster), work.epoch, 200, 3),
        Row("oof", ours.oof, by(plain.oof, passes), work.oof, 100, 3),
        Row("blend", light.blending, searches, work.blend_weights, 20, 3, _not_worse),
        Row("chain", ours.chain, by(plain.chain), work.chain, 24, 2, _blends_hold),
    ]
    shared, changes = _SHARED.get, _CHANGES.get
    return {r.name: replace(r, shared=shared(r.name), changes=changes(r.name, {})) for r in found}


class Curve(NamedTuple):
    """A row at several sizes.

    Attributes:
        row: which.
        unit: of the work.
        points: amounts of work.
        rounds: calls of each side at each point, unless the user names a number.
        frames: of every point, likewise; None = the row's.
    """

    row: str
    unit: str
    points: Sequence[int]
    rounds: int
    frames: int | None = None


CURVES = {
    "frames": Curve("epoch", "frames", (50, 100, 200, 400, 795), rounds=2),
    "crops": Curve("train step", "crop area", (1, 2, 4), rounds=7),
    "runs": Curve("blend", "runs blended", (2, 3, 4, 6, 8), rounds=1, frames=10),
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
        subsets: datasets of links by their number of frames.
    """

    config: Config
    folder: Path
    rates: Mapping[str, float]
    runs: tuple[Path, ...] = ()
    subsets: dict[int, Subset] = field(default_factory=dict)

    def job(self, row: Row, frames: int, models: int = 2) -> Job:
        """A job for the row, with empty folders of its own."""
        if frames not in self.subsets:
            say(f"linking and checking {frames} frames")
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
            rounds: calls of each side.

        Returns:
            A row of the published JSON for each rival.

        Raises:
            RuntimeError: a rival's result is not ours, and nothing was timed then; or a side
                failed, and the message holds its traceback.
        """
        name = row.name
        if row.shared is not None:
            say(f"{name}: making what both sides start from")
            # In a process that ends: this one stays as it is.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                pool.submit(row.shared, job).result()
        with ExitStack() as stack:
            sides: dict[str, Side] = {}
            for side in (OURS, *rivals):
                say(f"{name}: first call of {side}, not timed")
                prepare = row.ours if side == OURS else row.rivals[side]
                own = replace(job, folder=job.folder / side.replace(", ", "-").replace(" ", "-"))
                sides[side] = stack.enter_context(Side(side, job.threads, prepare, own))
                first = sides[OURS].first.facts, sides[side].first.facts
                if side != OURS:
                    check_alike(f"{name}, ours and {side}", partial(row.check, *first))
            calls = {side: started.call for side, started in sides.items()}
            called = take_turns(name, calls, rounds)
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
            job = self._point(name, row, amount, frames or curve.frames or row.frames)
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
