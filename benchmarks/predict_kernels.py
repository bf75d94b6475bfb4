"""python -m benchmarks.predict_kernels: how long would each kernel take on a GPU that is not here?

Of every launch of an operation, at the reports' sizes: max(warp instructions / what the schedulers
issue, bytes / what the memory moves) + 2 us. Instructions are counted in the machine code that the
installed Triton makes, loop by loop, and taken as often as the launch goes through them. Where the
same call was measured on an H100, that is shown beside it, by the kernels of a commit that it
names. In two minutes.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.lowering import Lowered, lower
from engine.command import run_main
from engine.mistakes import ConfigError

OPERATIONS = (
    "boundary_ce",
    "tta_accumulate",
    "confusion",
    "confusion_3M",
    "blend_1",
    "blend_64",
    "crop_resize",
    "crop_resize_bf16",
    "depthwise_norm_128",
    "depthwise_norm_256",
    "depthwise_norm_512",
    "depthwise_norm_1024",
    "group_norm_relu",
    "group_norm_relu_x2",
    "scaled_weight",
)
ARCHITECTURES = (80, 90, 100)

_MEASURED = Path(__file__).resolve().parent / "results" / "kernel_speed_h100.json"
_MEASURED_ON = 90


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, predict and print; returns the exit code."""
    parser = command.parser("predict_kernels", __doc__)
    some = f"some of {', '.join(OPERATIONS)}"
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help=some)
    told = "compute capability x 10: 80 = A100, 90 = H100, 100 = B200 (default: 90)"
    parser.add_argument("--arch", type=int, choices=ARCHITECTURES, default=90, help=told)
    options = parser.parse_args(arguments)
    for name in options.operations:
        if name not in OPERATIONS:
            parser.error(f"unknown operation {name!r}; there are {', '.join(OPERATIONS)}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise ConfigError("TRITON_INTERPRET is set, and the interpreter makes no machine code")
    command.check_ready("triton")
    from benchmarks.prediction import GPUS

    lowered: dict[str, Lowered] = {}
    rows = [predict(name, options.arch, lowered) for name in options.operations or OPERATIONS]
    _print(rows, GPUS[options.arch].name)
    if options.json:
        gpu = GPUS[options.arch]._asdict()
        content = {"machine": command.describe_machine(), "gpu": gpu, "rows": rows}
        command.write_json(options.json, content)
    return 0


def predict(name: str, architecture: int, lowered: dict[str, Lowered]) -> dict[str, Any]:
    """The row of an operation: its cost, that of each kernel, and what was measured if anything.

    Args:
        name: one of OPERATIONS.
        architecture: one of ARCHITECTURES.
        lowered: kernels that have been compiled for it; added to.

    Raises:
        ValueError: a kernel's loops are other ones than its case states.
    """
    from benchmarks import prediction
    from benchmarks.predicted_cases import CASES
    from benchmarks.recording import record

    case, gpu = CASES[name], prediction.GPUS[architecture]
    costs: dict[str, list[prediction.Cost]] = {}
    for launch in record(case.make, gpu):
        passes = {array: case.passes.get(array, 1.0) for array in launch.arrays}
        moved = {array: passes[array] * size for array, size in launch.arrays.items()}
        if launch.specialisation is None:
            cost = prediction.pytorch_cost(sum(moved.values()), gpu)
            costs.setdefault("PyTorch", []).append(cost)
            continue
        key = str(launch.specialisation)
        if key not in lowered:
            lowered[key] = lower(launch.specialisation, architecture)
        loops = case.loops[launch.name](launch) if launch.name in case.loops else ()
        try:
            cost = prediction.kernel_cost(lowered[key], loops, launch.warps, moved, gpu)
        except ValueError as error:
            raise ValueError(f"{launch.name} on sm_{architecture}: {error}") from error
        costs.setdefault(launch.name, []).append(cost)
    whole = prediction.total([cost for each in costs.values() for cost in each])
    kernels = {kernel: prediction.total(each)._asdict() for kernel, each in costs.items()}
    row = {"name": name, "at": case.at, **whole._asdict(), "kernels": kernels}
    if case.measured and architecture == _MEASURED_ON:
        row["measured_s"] = measured_s(case.measured)
    return row


def measured_s(name: str) -> float:
    """The median of an operation on an H100, of the newest committed measurement."""
    rows = json.loads(_MEASURED.read_text(encoding="utf-8"))["rows"]
    return float(next(row["median_s"] for row in rows if row["name"] == name))


def _print(rows: Sequence[dict[str, Any]], gpu: str) -> None:
    from benchmarks.report import print_table

    lines: list[tuple[Any, ...]] = []
    for row in rows:
        measured = row.get("measured_s")
        lines.append(
            (
                row["name"],
                row["at"],
                row["launches"],
                f"{row['warp_instructions'] / 1e6:.2f} M",
                f"{1e6 * row['issue_s']:.1f} us",
                f"{row['bytes'] / 1e6:.1f} MB",
                f"{1e6 * row['memory_s']:.1f} us",
                f"{1e6 * row['seconds']:.1f} us",
                f"{1e6 * measured:.1f} us" if measured else "",
                f"{measured / row['seconds']:.2f}" if measured else "",
            )
        )
        if len(row["kernels"]) > 1:
            for kernel, cost in row["kernels"].items():
                seconds = f"{1e6 * cost['seconds']:.1f} us"
                issue, memory = (f"{1e6 * cost[key]:.1f} us" for key in ("issue_s", "memory_s"))
                counts = f"{cost['warp_instructions'] / 1e6:.2f} M", f"{cost['bytes'] / 1e6:.1f} MB"
                lines.append(
                    (
                        f"  {kernel}",
                        "",
                        cost["launches"],
                        counts[0],
                        issue,
                        counts[1],
                        memory,
                        seconds,
                    )
                )
    work = "launches", "warp instructions", "issued in", "bytes", "moved in"
    told = "of each launch the longer of issuing and moving, and 2 us"
    if any("measured_s" in row for row in rows):
        commit = json.loads(_MEASURED.read_text(encoding="utf-8"))["machine"]["commit"]
        told += f"; measured: with the kernels of commit {commit} and the Triton of then"
    print_table(
        f"{gpu}, predicted: {told}",
        ("operation", "at", *work, "predicted", "measured", "ratio"),
        lines,
    )


if __name__ == "__main__":
    run_main(main)
