"""python -m benchmarks.kernel_speed: every fused operation against what a user would reach for."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    parser.add_argument(
        "operations", nargs="*", metavar="OPERATION", help=f"some of {', '.join(OPERATIONS)}"
    )
    parser.add_argument("--rounds", type=int, default=11, help="runs of each side (default: 11)")
    parser.add_argument("--gpu", action="store_true", help="on the CUDA device: its own time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    for name in options.operations:
        if name not in OPERATIONS:
            parser.error(f"unknown operation {name!r}; there are {', '.join(OPERATIONS)}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    import torch

    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu, but torch finds no CUDA device")
    device = torch.device("cuda" if options.gpu else "cpu")
    try:
        rates, rows = measure(options.operations or OPERATIONS, options.rounds, device)
    except AssertionError as error:
        print(f"error: a result is wrong, so nothing was timed: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {error}; pip install 'roomsmith[bench]'", file=sys.stderr)
        return 2
    from benchmarks.report import describe_machine, print_rows

    print_rows(rows)
    if options.json:
        from engine.rundir import write_json

        machine = {**describe_machine(), "rates_by_threads": rates}
        write_json(options.json, {"machine": machine, "rows": rows})
    return 0


def measure(
    operations: tuple[str, ...] | list[str], rounds: int, device: "torch.device"
) -> tuple[dict[int, dict[str, float]], list[dict[str, Any]]]:
    """This machine's rates by threads, and rows of the published JSON for each case and rival.

    Raises:
        AssertionError: a result is wrong; naming the rival that differs.
        ModuleNotFoundError: a rival is not installed.
    """
    from benchmarks.rates import machine_rates
    from benchmarks.timing import Timed, measure_memory, run_case

    rates: dict[int, dict[str, float]] = {}
    timed: list[Timed] = []
    for operation in operations:
        module = importlib.import_module(f"benchmarks.cases.{operation}")
        for case in module.cases(device):
            threads = case.work.threads
            if threads not in rates:
                _say(f"measuring the machine on {threads} threads")
                rates[threads] = machine_rates(threads, device.type, tensor_cores=False)
            entry = run_case(case, rounds, _say)
            entry.floor_s = case.work.floor_s(rates[threads])
            timed.append(entry)
    _say("measuring memory")
    measure_memory(timed)
    return rates, [entry.row(rival) for entry in timed for rival in entry.case.rivals]


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
