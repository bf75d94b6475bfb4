"""python -m benchmarks.kernel_speed: every fused operation against what a user would reach for.

That is the eager PyTorch chain, torch.compile of its reference and the libraries for it that are
installed, interleaved in one run. A side whose result is wrong is not timed. A side runs until its
ratio is settled or its share of the budget is spent, at least three rounds; each row is printed,
and written, when it is there.
"""

from benchmarks import command
from engine.command import run_main

OPERATIONS = ("boundary_ce", "tta_accumulate", "confusion", "crop_resize")
LAYERS = ("batch_norm", "depthwise", "group_norm")
"""That a CPU trains in kernels of ours, and a GPU in its library's."""

_BUDGET_S = 300
"""Nobody waits longer than five minutes for an answer."""

_MEMORY = "memory"
"""The last part: what it asks of the allocator would slow down whatever is timed after it."""


def main() -> int:
    """Parse the command line, measure and report; returns the exit code."""
    parser = command.parser("kernel_speed", __doc__)
    known = (*OPERATIONS, *LAYERS)
    add, some = parser.add_argument, f"some of {', '.join(known)}"
    add("operations", nargs="*", metavar="OPERATION", help=some)
    add("--rounds", type=command.at_least(1), default=11, help="of each side at most (default: 11)")
    command.add_budget(parser, _BUDGET_S)
    add("--gpu", action="store_true", help="on the CUDA device: its own time")
    options = parser.parse_args()
    for name in options.operations:
        if name not in known:
            parser.error(f"unknown operation {name!r}; there are {', '.join(known)}")
        if options.gpu and name in LAYERS:
            parser.error(f"{name} is a kernel for a CPU; leave out --gpu")
    command.check_ready("cv2", gpu=options.gpu)
    import torch

    from benchmarks.cases import CASES
    from benchmarks.figures import Figures, Peaks, Rates, rows_of
    from benchmarks.layer_cases import LAYERS as LAYER_CASES
    from benchmarks.pace import Pace
    from benchmarks.report import print_rows
    from benchmarks.timing import extra_memory, machine_rates, status_mib, time_case
    from engine.runtime.device import keep_freed_memory

    device = torch.device("cuda" if options.gpu else "cpu")
    if not options.gpu:
        status_mib("VmHWM")  # Before all timing: without it nothing of this could be finished.
        keep_freed_memory()  # as a run does; no side pays for new pages at every call
    cases = CASES if options.gpu else CASES | LAYER_CASES
    parts = [*(options.operations or cases), _MEMORY]
    rates: dict[int, Rates] = {}
    machine = {**command.describe_machine(), "rates_by_threads": rates}
    sheet, timed = command.Sheet(options.json, {"machine": machine, "rows": []}, parts), []
    with Pace(options.budget_s or _BUDGET_S, parts) as pace:
        for operation in parts[:-1]:
            if not pace.begin(operation):
                continue
            case = cases[operation](device)
            if case.threads not in rates:
                pace.tell(f"measuring the machine on {case.threads} threads")
                rates[case.threads] = machine_rates(case.threads, device.type, tensor_cores=False)
            calls = time_case(case, options.rounds, pace)
            timed.append((case, calls))
            none: Peaks = {side: {} for side in calls}
            rows = rows_of(case.name, calls, none, case.work, rates[case.threads])
            sheet.add(operation, "rows", rows)
        pace.tell("measuring memory")
        peaks = [extra_memory(case) for case, _ in timed]
    whole: list[Figures] = []
    for (case, calls), mib in zip(timed, peaks, strict=True):
        whole += rows_of(case.name, calls, mib, case.work, rates[case.threads])
    sheet.content["rows"] = whole
    sheet.finish(_MEMORY)
    print_rows(whole)
    return 0


if __name__ == "__main__":
    run_main(main)
