"""python -m benchmarks.scale: what does a frame cost among a thousand, and among 100,000?

Very many small frames are made, and each stage that touches them all is run in a process of its
own, for each number of frames: seconds of the processor, memory, and the exponent of the growth.
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

_MOST_MIB = 1024
"""Bound of the memory of index and loader."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 1 if the memory of index and loader exceeds a GiB."""
    command = parser("scale", __doc__)
    add = command.add_argument
    counts = [3000, 10_000, 30_000, 100_000]
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
        return _measure(sorted(options.frames), options.stages, kept, options.json)
    finally:
        if options.work is None:
            shutil.rmtree(kept, ignore_errors=True)


def _measure(counts: Sequence[int], stages: Sequence[str], kept: Path, out: Path | None) -> int:
    rows: list[dict[str, Any]] = []
    for count in counts:
        data, work = kept / f"frames{count}", kept / f"work{count}"
        _make(data, count)
        work.mkdir(exist_ok=True)
        # What later stages rest on is made even where it is not asked for.
        first = [] if (work / "cache").exists() or "check" in stages else ["check"]
        for stage in [*first, *stages]:
            rows.append({"stage": stage, "frames": count, **_run(stage, data, work)})
            _tell(rows[-1])
    grown = {stage: _growth([row for row in rows if row["stage"] == stage]) for stage in stages}
    _print(stages, counts, rows, grown)
    peak = max((row["peak_mib"] for row in rows if row["stage"] in _BOUNDED), default=0)
    print(f"memory of index and loader: {peak:.0f} MiB at most (bound: {_MOST_MIB})")
    if out is not None:
        machine = describe_machine()
        write_json(out, {"machine": machine, "rows": rows, "exponents": grown, "peak_mib": peak})
    return int(peak > _MOST_MIB)


_BOUNDED = ("index", "recall", "loader", "shard index", "shard loader")


def _make(data: Path, count: int) -> None:
    from benchmarks.scale_frames import write_frames

    if not data.exists():
        part = data.with_name(f"{data.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        write_frames(part, count)
        part.rename(data)


def _run(stage: str, data: Path, work: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.scale", "--child", stage, str(data), str(work)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{stage} on {data} failed: {done.stderr.strip()[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _growth(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Exponent of the processor's time over the number of frames; None of a single number."""
    from benchmarks.fit import fit_power_law

    if len(rows) < 2:
        return None
    frames, seconds = ([row[name] for row in rows] for name in ("frames", "cpu_s"))
    return fit_power_law(frames, [max(one, 1e-4) for one in seconds]).exponent


def _tell(row: Mapping[str, Any]) -> None:
    told = f"{row['frames']:>8} {row['stage']:<13} {row['cpu_s']:8.2f} s of the processor"
    print(f"{told}, {row['wall_s']:8.2f} s, {row['peak_mib']:6.0f} MiB", flush=True)


def _print(
    stages: Sequence[str],
    counts: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    grown: Mapping[str, float | None],
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", *(f"us a frame at {n:,}" for n in counts), "exponent", "MiB")
    for stage in stages:
        of_stage = {row["frames"]: row for row in rows if row["stage"] == stage}
        costs = [f"{1e6 * of_stage[n]['cpu_s'] / n:.0f}" for n in counts]
        exponent = grown[stage]
        shown = "-" if exponent is None else f"{exponent:.2f}"
        table.add_row(stage, *costs, shown, f"{of_stage[counts[-1]]['peak_mib']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    run_main(main)
