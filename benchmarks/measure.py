"""Measure a row: both sides in processes of their own, in turns, on the same frames."""

import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.figures import OURS, Called, Facts, Taken, compare, row_of, take_turns
from benchmarks.rows.catalogue import Row
from benchmarks.rows.job import Job
from benchmarks.sides import Side
from benchmarks.subset import Subset, open_subset
from engine.config import Config


@dataclass(frozen=True)
class Bench:
    """What all rows of one benchmark share.

    Attributes:
        config: the experiment.
        folder: scratch space.
        rates: the machine's, see `benchmarks.rates`.
        say: told what is going on.
        runs: see `Job`.
        subsets: datasets of links by their number of frames.
    """

    config: Config
    folder: Path
    rates: Mapping[str, float]
    say: Callable[[str], None]
    runs: tuple[Path, ...] = ()
    subsets: dict[int, Subset] = field(default_factory=dict)

    def job(self, row: Row, frames: int, models: int = 2) -> Job:
        """A job for the row, with empty folders of its own."""
        if frames not in self.subsets:
            self.say(f"linking and checking {frames} frames")
            folder = self.folder / "frames" / str(frames)
            self.subsets[frames] = open_subset(self.config, frames, folder)
        subset = self.subsets[frames].configured(row.configured(self.config))
        own = Path(tempfile.mkdtemp(dir=self.folder))
        folders = self.folder / "networks", own / "shared", own
        return Job(subset.config, subset.dataset, subset.folds, *folders, models, self.runs)


def measure(
    bench: Bench, name: str, row: Row, job: Job, rivals: Sequence[str], rounds: int
) -> list[dict[str, Any]]:
    """Prepare the sides, check their first results, then call them in turns.

    Args:
        bench: what rows share.
        name: of the row, for messages.
        row: what to measure.
        job: what the sides are told.
        rivals: names of the row's rivals to run.
        rounds: calls of each side.

    Returns:
        A row of the published JSON for each rival; ratio = rival / ours, round by round.

    Raises:
        AssertionError: a rival's result is not ours; nothing is timed then.
        RuntimeError: a side failed; the message holds its traceback.
    """
    if row.shared is not None:
        bench.say(f"{name}: making what both sides start from")
        # In a process that ends: this one stays as it is.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(row.shared, job).result()
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for side in (OURS, *rivals):
            bench.say(f"{name}: first call of {side}, not timed")
            sides[side] = stack.enter_context(_start(row, job, side))
            if side != OURS:
                _check(f"{name}, ours and {side}", row, sides[OURS].first.facts, sides[side])
        calls = {side: started.call for side, started in sides.items()}
        called = take_turns(name, calls, rounds, bench.say)
    work = row.work(job)
    floor_s = work.floor_s(bench.rates)
    taken = {side: _taken(sides[side], called[side]) for side in sides}
    return [
        row_of((name, rival), taken[OURS], taken[rival], work, floor_s)
        | _facts_of(called[OURS], called[rival])
        for rival in rivals
    ]


def _taken(side: Side, called: Sequence[Called]) -> Taken:
    gpu = {"peak_gpu_mib": called[-1].gpu_mib} if called[-1].gpu_mib else {}
    return Taken([one.seconds for one in called], side.mib | gpu)


def _facts_of(ours: Sequence[Called], theirs: Sequence[Called]) -> dict[str, Any]:
    """What the sides said of their results, as it is published."""
    first, rival = ours[0].facts, theirs[0].facts
    found: dict[str, Any] = {"frames": first.frames}
    if first.mious:
        found |= {"miou": max(first.mious), "rival_miou": max(rival.mious)}
    # A recorded step of ours has fewer phases.
    common = [phase for phase in first.phases if phase in rival.phases]
    if common:
        found["phases"] = {
            phase: compare(
                *([called.facts.phases[phase] for called in side] for side in (ours, theirs))
            )
            for phase in common
        }
    return found


def _start(row: Row, job: Job, name: str) -> Side:
    own = replace(job, folder=job.folder / name.replace(", ", "-").replace(" ", "-"))
    return Side(name, job.threads, row.ours if name == OURS else row.rivals[name], own)


def _check(names: str, row: Row, ours: Facts, rival: Side) -> None:
    try:
        row.check(ours, rival.first.facts)
    except AssertionError as error:
        raise AssertionError(f"{names}: {error}") from error
