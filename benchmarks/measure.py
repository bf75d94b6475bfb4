"""Measure a row: both sides in processes of their own, in turns, on the same frames."""

import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.rows.catalogue import Row
from benchmarks.rows.job import Job
from benchmarks.sides import Called, Side, take_turns
from benchmarks.subset import Subset, open_subset
from benchmarks.timing import Work, quartiles
from engine.config import Config

OURS = "ours"


@dataclass
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
    _made: int = 0

    def job(self, row: Row, frames: int, models: int = 2) -> Job:
        """A job for the row, with empty folders of its own."""
        if frames not in self.subsets:
            self.say(f"linking and checking {frames} frames")
            folder = self.folder / "frames" / str(frames)
            self.subsets[frames] = open_subset(self.config, frames, folder)
        subset = self.subsets[frames]
        subset = subset.configured(row.configure(subset.config))
        self._made += 1
        own = self.folder / "rows" / str(self._made)
        return Job(subset, self.folder / "networks", own / "shared", own, models, self.runs)


@dataclass(frozen=True)
class Measured:
    """All calls of a row's sides.

    Attributes:
        calls: by side; each has as many.
        first: facts of the untimed first call, by side.
        own_mib: peak memory beyond the bare process, by side, its workers included.
        mapped_mib: peak of mapped files' pages, likewise.
    """

    frames: int
    calls: Mapping[str, list[Called]]
    first: Mapping[str, dict[str, Any]]
    own_mib: Mapping[str, float]
    mapped_mib: Mapping[str, float]
    work: Work
    floor_s: float

    def seconds(self, side: str) -> list[float]:
        """Of every call of a side."""
        return [called.seconds for called in self.calls[side]]


def measure(
    bench: Bench, name: str, row: Row, job: Job, rivals: Sequence[str], rounds: int
) -> Measured:
    """Prepare the sides, check their first results, then call them in turns.

    Args:
        bench: what rows share.
        name: of the row, for messages.
        row: what to measure.
        job: what the sides are told.
        rivals: names of the row's rivals to run.
        rounds: calls of each side.

    Raises:
        AssertionError: a rival's result is not ours; nothing is timed then.
        RuntimeError: a side failed; the message holds its traceback.
    """
    if row.shared is not None:
        bench.say(f"{name}: making what both sides start from")
        _apart(row.shared, job)
    with ExitStack() as stack:
        sides: list[Side] = []
        for side_name in (OURS, *rivals):
            bench.say(f"{name}: first call of {side_name}, not timed")
            side = stack.enter_context(_start(row, job, side_name))
            if side_name != OURS:
                _check(name, row, side_name, sides[0].first.facts, side.first.facts)
            sides.append(side)
        calls = take_turns(sides, rounds, bench.say)
    work = row.work(job)
    return Measured(
        frames=sides[0].first.facts["frames"],
        calls=calls,
        first={side.name: side.first.facts for side in sides},
        own_mib={side.name: side.memory.own for side in sides},
        mapped_mib={side.name: side.memory.mapped for side in sides},
        work=work,
        floor_s=work.floor_s(bench.rates),
    )


def row_of(name: str, rival: str, measured: Measured) -> dict[str, Any]:
    """The row of the published JSON; ratio = rival / ours, round by round."""
    ours_s, theirs_s = measured.seconds(OURS), measured.seconds(rival)
    row = {
        "name": name,
        "rival": rival,
        "frames": measured.frames,
        **_compare(ours_s, theirs_s),
        "peak_extra_mib": round(measured.own_mib[OURS], 1),
        "rival_peak_extra_mib": round(measured.own_mib[rival], 1),
        "peak_mapped_mib": round(measured.mapped_mib[OURS], 1),
        "rival_peak_mapped_mib": round(measured.mapped_mib[rival], 1),
        "bytes": measured.work.bytes,
        "flops": measured.work.flops,
        "floor_s": measured.floor_s,
        "share_of_floor": measured.floor_s / statistics.median(ours_s),
    }
    gpu_mib = [measured.calls[side][-1].gpu_mib for side in (OURS, rival)]
    if any(gpu_mib):
        row |= {"peak_gpu_mib": round(gpu_mib[0], 1), "rival_peak_gpu_mib": round(gpu_mib[1], 1)}
    ours, theirs = measured.first[OURS], measured.first[rival]
    if "miou" in ours:
        row |= {"miou": ours["miou"], "rival_miou": theirs["miou"]}
    if "phases" in ours:
        row["phases"] = {
            phase: _compare(
                [called.facts["phases"][phase] for called in measured.calls[OURS]],
                [called.facts["phases"][phase] for called in measured.calls[rival]],
            )
            for phase in ours["phases"]
            if phase in theirs["phases"]  # a recorded step of ours has fewer
        }
    return row


def _compare(ours_s: Sequence[float], theirs_s: Sequence[float]) -> dict[str, Any]:
    # A phase may take no time at all on one side.
    ratios = [theirs / max(ours, 1e-9) for ours, theirs in zip(ours_s, theirs_s, strict=True)]
    return {
        "median_s": statistics.median(ours_s),
        "rival_median_s": statistics.median(theirs_s),
        "ratio": statistics.median(ratios),
        "quartiles": quartiles(ratios),
        "quartiles_s": quartiles(ours_s),
        "rival_quartiles_s": quartiles(theirs_s),
    }


def _start(row: Row, job: Job, name: str) -> Side:
    own = replace(job, folder=job.folder / name.replace(", ", "-").replace(" ", "-"))
    threads = job.threads
    if name == OURS:
        return Side(name, threads, row.ours, own)
    rival = row.rivals[name]
    return Side(name, threads, rival.prepare, own, rival.recipe)


def _check(name: str, row: Row, rival: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    try:
        row.check(ours, theirs)
    except AssertionError as error:
        raise AssertionError(f"{name}, ours and {rival}: {error}") from error


def _apart(make: Callable[[Job], None], job: Job) -> None:
    """Call in a process that ends: this one stays as it is."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(make, job).result()
