"""python -m benchmarks.kernel_speed: every fused operation against what a user would reach for.

That is the eager PyTorch chain, torch.compile of its reference and the library for it, interleaved
in one run. A side whose result is wrong is not timed. About twelve minutes on two cores.
"""

from benchmarks import command
from engine.command import run_main

OPERATIONS = ("boundary_ce", "tta_accumulate", "confusion", "crop_resize")

_LIBRARIES = {"confusion": ("sklearn", "torchmetrics"), "crop_resize": ("albumentations",)}
"""Of the extra, by operation; besides the OpenCV of all."""


def main() -> int:
    """Parse the command line, measure and report; returns the exit code."""
    parser = command.parser("kernel_speed", __doc__)
    add, some = parser.add_argument, f"some of {', '.join(OPERATIONS)}"
    add("operations", nargs="*", metavar="OPERATION", help=some)
    add("--rounds", type=command.at_least(1), default=11, help="runs of each side (default: 11)")
    add("--gpu", action="store_true", help="on the CUDA device: its own time")
    options = parser.parse_args()
    for name in options.operations:
        if name not in OPERATIONS:
            parser.error(f"unknown operation {name!r}; there are {', '.join(OPERATIONS)}")
    chosen = options.operations or OPERATIONS
    libraries = [name for operation in chosen for name in _LIBRARIES.get(operation, ())]
    command.check_ready("cv2", *libraries, gpu=options.gpu)
    import torch

    from benchmarks.cases import CASES
    from benchmarks.figures import Figures, Rates, rows_of, say
    from benchmarks.report import print_rows
    from benchmarks.timing import extra_memory, machine_rates, status_mib, time_case

    device = torch.device("cuda" if options.gpu else "cpu")
    if not options.gpu:
        status_mib("VmHWM")  # Before all timing: without it nothing of this could be finished.
    rates: dict[int, Rates] = {}
    timed = []
    for operation in chosen:
        case = CASES[operation](device)
        if case.threads not in rates:
            say(f"measuring the machine on {case.threads} threads")
            rates[case.threads] = machine_rates(case.threads, device.type, tensor_cores=False)
        timed.append((case, time_case(case, options.rounds)))
    say("measuring memory")
    rows: list[Figures] = []
    for case, calls in timed:
        rows += rows_of(case.name, calls, extra_memory(case), case.work, rates[case.threads])
    print_rows(rows)
    if options.json:
        machine = {**command.describe_machine(), "rates_by_threads": rates}
        command.write_json(options.json, {"machine": machine, "rows": rows})
    return 0


if __name__ == "__main__":
    run_main(main)
