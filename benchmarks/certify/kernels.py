"""Each fused operation against the eager chain and its floor, in the precisions that it takes."""

from dataclasses import replace

import torch

from benchmarks.certify.notes import Notes, need
from benchmarks.figures import OURS, rows_of

_COUNTS_BYTES = "confusion"
"""The operation that has no precision."""

_ROUNDS, _ROUNDS_ON_CPU = 7, 3


def kernels(notes: Notes) -> None:
    """Rows of ours and eager PyTorch: checked against one another, then timed in turns."""
    gpu = torch.cuda.is_available()
    need("cv2")
    from benchmarks.cases import CASES
    from benchmarks.timing import extra_memory, machine_rates, time_case

    device = torch.device("cuda" if gpu else "cpu")
    rates = {
        threads: machine_rates(threads, device.type, tensor_cores=False)
        for threads in {1, torch.get_num_threads()}
    }
    for operation, make in CASES.items():
        made = {operation: make(device)}
        if operation != _COUNTS_BYTES:
            made[f"{operation}, bfloat16"] = make(device, torch.bfloat16)
        for name, whole in made.items():
            sides = {side: whole.sides[side] for side in (OURS, "eager")}
            case = replace(whole, name=name, sides=sides)
            calls = time_case(case, _ROUNDS if gpu else _ROUNDS_ON_CPU)
            # On a CPU it would slow down whatever is timed afterwards.
            mib = extra_memory(case) if gpu else {side: {} for side in sides}
            notes.add_rows(rows_of(case.name, calls, mib, case.work, rates[case.threads]))
