"""python -m benchmarks.kernel_speed: every fused operation against what a user would reach for."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import at_least, say

if TYPE_CHECKING:
    import torch

OPERATIONS = ("boundary_ce", "tta_accumulate", "confusion", "crop_resize")


def main() -> int:
    """Parse the command line, measure and report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_speed",
        description="Time each fused operation against the eager PyTorch chain, torch.compile of "
        "its reference and the library a user would reach for, interleaved in one run. A side "
        "whose result is wrong is not timed. About twelve minutes on two cores.",
    )
    add, some = parser.add_argument, f"some of {', '.join(OPERATIONS)}"
    add("operations", nargs="*", metavar="OPERATION", help=some)
    add("--rounds", type=at_least(1), default=11, help="runs of each side (default: 11)")
    add("--gpu", action="store_true", help="on the CUDA device: its own time")
    add("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    for name in options.operations:
        if name not in OPERATIONS:
            parser.error(f"unknown operation {name!r}; there are {', '.join(OPERATIONS)}")
    import torch

    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu, but torch finds no CUDA device")
    device = torch.device("cuda" if options.gpu else "cpu")
    try:
        rates, rows = measure(options.operations or OPERATIONS, options.rounds, device)
    except AssertionError as error:
        say(f"error: a result is wrong, so nothing was timed: {error}")
        return 1
    except ModuleNotFoundError as error:
        say(f"error: {error}; pip install 'roomsmith[bench]'")
        return 2
    from benchmarks.report import describe_machine, print_rows

    print_rows(rows)
    if options.json:
        from benchmarks.report import write_json

        machine = {**describe_machine(), "rates_by_threads": rates}
        write_json(options.json, {"machine": machine, "rows": rows})
    return 0


def measure(
    operations: Sequence[str], rounds: int, device: "torch.device"
) -> tuple[dict[int, dict[str, float]], list[dict[str, Any]]]:
    """This machine's rates by threads, and rows of the published JSON for each case and rival.

    Raises:
        AssertionError: a result is wrong; naming the rival that differs.
        ModuleNotFoundError: a rival is not installed.
    """
    from benchmarks.figures import OURS, Taken, row_of
    from benchmarks.rates import machine_rates
    from benchmarks.timing import Case, extra_memory, time_case

    rates: dict[int, dict[str, float]] = {}
    timed: list[tuple[Case, dict[str, list[float]]]] = []
    for operation in operations:
        for case in importlib.import_module(f"benchmarks.cases.{operation}").cases(device):
            threads = case.work.threads
            if threads not in rates:
                say(f"measuring the machine on {threads} threads")
                rates[threads] = machine_rates(threads, device.type, tensor_cores=False)
            timed.append((case, time_case(case, rounds, say)))
    say("measuring memory")
    rows: list[dict[str, Any]] = []
    for case, seconds in timed:
        mib = extra_memory(case)
        taken = {side: Taken(seconds[side], {"peak_extra_mib": mib[side]}) for side in mib}
        floor_s = case.work.floor_s(rates[case.work.threads])
        rows += [
            row_of((case.name, rival), taken[OURS], taken[rival], case.work, floor_s)
            for rival in case.rivals
        ]
    return rates, rows


if __name__ == "__main__":
    sys.exit(main())
