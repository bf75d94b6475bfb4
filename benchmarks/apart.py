"""Time a case with each side in a process of its own: no side finds what another left in memory."""

import gc
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.sides import Prepared, Side, take_turns
from benchmarks.timing import Case, Timed, check_case

_OURS = "ours"


def run_apart(operation: str, case: Case, rounds: int, say: Callable[[str], None]) -> Timed:
    """As `benchmarks.timing.run_case`, for a case of `benchmarks.cases.<operation>`.

    Raises:
        AssertionError: a result is wrong; nothing is timed then.
        RuntimeError: a side failed; the message holds its traceback.
    """
    say(f"{case.name}: checking")
    check_case(case)
    with ExitStack() as stack:
        sides = [
            stack.enter_context(Side(name, case.work.threads, _prepare, operation, case.name, name))
            for name in (_OURS, *case.rivals)
        ]
        calls = take_turns(sides, rounds, say)
    seconds = {name: [call.seconds for call in made] for name, made in calls.items()}
    ours_s = seconds.pop(_OURS)
    return Timed(case, ours_s, seconds)


def _prepare(operation: str, name: str, side: str) -> Prepared:
    """In the side's process: make the case anew."""
    import torch

    module = importlib.import_module(f"benchmarks.cases.{operation}")
    (case,) = (made for made in module.cases(torch.device("cpu")) if made.name == name)
    call = case.ours if side == _OURS else case.rivals[side]
    call()
    gc.collect()
    gc.freeze()

    def run() -> dict[str, Any]:
        call()
        return {}

    return Prepared(run)
