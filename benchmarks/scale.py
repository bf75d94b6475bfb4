"""python -m benchmarks.scale: what does a frame cost among a thousand, and among 100,000?

Very many small frames are made, and each stage that touches them all is run in processes of its
own, for each number of frames in turns. Of several runs the least time of the processor counts:
other work on the machine only adds to it. Fitted is seconds = start-up + constant * frames **
exponent; what does not depend on the frames, such as an import, is the start-up, and shown.

Where the file of --json has figures of this machine already, new ones are added to them.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import at_least, describe_machine, parser, write_json
from benchmarks.scale_stages import STAGES, run_stage
from engine.command import run_main
from engine.mistakes import ConfigError

_MOST_MIB = 1024
"""Bound of the memory of index and loader."""

_BOUNDED = ("index", "recall", "loader", "shard index", "shard loader")

_RUNS, _ENOUGH_S = 5, 25.0
"""A stage runs so often, or until its runs took so many seconds of the processor."""

_SEARCHED = ("leakage", "leakage recall")
"""Stages that do something else with few frames, which are left out of their fit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 1 if the memory of index and loader exceeds a GiB."""
    command = parser("scale", __doc__)
    add = command.add_argument
    counts = [300, 3000, 10_000, 30_000, 100_000]
    text = f"numbers of frames (default: {' '.join(map(str, counts))})"
    add("--frames", type=at_least(100), nargs="+", default=counts, metavar="N", help=text)
    add(
        "--stages", nargs="+", choices=STAGES, default=[*STAGES], metavar="STAGE", help="only these"
    )
    add("--work", type=Path, help="where frames are made and kept (default: a temporary folder)")
    add("--child", nargs=3, metavar=("STAGE", "DATA", "WORK"), help="one stage, as JSON")
    options = command.parse_args(arguments)
    if options.child:
        stage, data, work = options.child
        print(json.dumps(run_stage(stage, Path(data), Path(work))))
        return 0
    kept = options.work or Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        return _measure(sorted(set(options.frames)), options.stages, kept, options.json)
    finally:
        if options.work is None:
            shutil.rmtree(kept, ignore_errors=True)


def _measure(counts: Sequence[int], stages: Sequence[str], kept: Path, out: Path | None) -> int:
    machine = describe_machine()
    commit = {"commit": machine.pop("commit")}
    rows = _rows_of(out, machine)
    places = {count: (kept / f"frames{count}", kept / f"work{count}") for count in counts}
    for count, (data, work) in places.items():
        _make(data, count)
        work.mkdir(exist_ok=True)
        # What later stages rest on is made even where it is not asked for.
        if "check" not in stages and not (work / "cache").exists():
            _run("check", data, work)
    for stage in stages:
        for count, row in _least(stage, places).items():
            rows[stage, count] = {"stage": stage, "frames": count, **row, **commit}
            _tell(rows[stage, count])
        if out is not None:
            write_json(out, _figures(machine, rows))
    figures = _figures(machine, rows)
    _print(rows, figures["fits"])
    print(f"memory of index and loader: {figures['peak_mib']:.0f} MiB at most, of {_MOST_MIB}")
    return int(figures["peak_mib"] > _MOST_MIB)


_Rows = dict[tuple[str, int], dict[str, Any]]


def _rows_of(out: Path | None, machine: Mapping[str, Any]) -> _Rows:
    """What a file has already, by stage and number of frames."""
    if out is None or not out.exists():
        return {}
    found = json.loads(out.read_text(encoding="utf-8"))
    if found["machine"] != machine:
        raise ConfigError(
            f"{out} has figures of another machine or other versions; name a new file"
        )
    return {(row["stage"], row["frames"]): row for row in found["rows"]}


def _figures(machine: Mapping[str, Any], rows: _Rows) -> dict[str, Any]:
    from benchmarks.fit import fit_power_law
    from engine.data.alike_index import EXACT

    fits = {}
    for stage in STAGES:
        least = EXACT if stage in _SEARCHED else 0
        points = sorted((n, row["cpu_s"]) for (name, n), row in rows.items() if name == stage)
        points = [(n, max(seconds, 1e-4)) for n, seconds in points if n > least]
        if len(points) > 1:
            fits[stage] = fit_power_law(*zip(*points, strict=True))._asdict()
    peak = max((row["peak_mib"] for row in rows.values() if row["stage"] in _BOUNDED), default=0)
    ordered = [rows[key] for key in sorted(rows, key=lambda key: ([*STAGES].index(key[0]), key[1]))]
    return {"machine": machine, "rows": ordered, "fits": fits, "peak_mib": peak}


def _make(data: Path, count: int) -> None:
    from benchmarks.scale_frames import write_frames

    if not data.exists():
        part = data.with_name(f"{data.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        write_frames(part, count)
        part.rename(data)


def _least(stage: str, places: Mapping[int, tuple[Path, Path]]) -> dict[int, dict[str, Any]]:
    """By number of frames, the run that took the processor least, with the most memory of all.

    All numbers in turns, for a processor is by a third faster in one minute than in another.
    """
    runs: dict[int, list[dict[str, float]]] = {count: [] for count in places}
    for _ in range(_RUNS):
        for count, place in places.items():
            if sum(run["cpu_s"] for run in runs[count]) < _ENOUGH_S:
                runs[count].append(_run(stage, *place))
    rows: dict[int, dict[str, Any]] = {}
    for count, each in runs.items():
        least = min(each, key=lambda run: run["cpu_s"])
        peak = max(run["peak_mib"] for run in each)
        rows[count] = {**least, "peak_mib": peak, "runs": len(each)}
    return rows


def _run(stage: str, data: Path, work: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.scale", "--child", stage, str(data), str(work)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{stage} on {data} failed: {done.stderr.strip()[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _tell(row: Mapping[str, Any]) -> None:
    told = f"{row['frames']:>8} {row['stage']:<13} {row['cpu_s']:8.2f} s of the processor"
    print(f"{told}, {row['wall_s']:8.2f} s, {row['peak_mib']:6.0f} MiB", flush=True)


def _print(rows: _Rows, fits: Mapping[str, Mapping[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    counts = sorted({count for _, count in rows})
    heads = (*(f"us a frame at {n:,}" for n in counts), "start-up s", "exponent", "off by", "MiB")
    table = Table("stage", *heads)
    for stage in STAGES:
        of_stage = {n: row for (name, n), row in sorted(rows.items()) if name == stage}
        if not of_stage:
            continue
        costs = [f"{1e6 * of_stage[n]['cpu_s'] / n:.0f}" if n in of_stage else "-" for n in counts]
        fit, shown = fits.get(stage), ["-", "-", "-"]
        if fit:
            shown = [f"{fit['startup_s']:.2f}", f"{fit['exponent']:.2f}", f"{fit['worst']:.0%}"]
        table.add_row(stage, *costs, *shown, f"{of_stage[max(of_stage)]['peak_mib']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    run_main(main)
