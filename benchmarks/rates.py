"""What this machine can do at best: the floors that a measured time is held against."""

import statistics
import time
from collections.abc import Callable

import torch

_COPIED_FLOATS = 1 << 26
"""256 MiB: more than any cache of a desktop, and no first touch of memory within the timing."""
_GEMM_SIDE = 2048
_ROUNDS = 5


def copy_rate() -> float:
    """Bytes a second, read and written together, of PyTorch's copy on its threads."""
    source, target = torch.ones(_COPIED_FLOATS), torch.zeros(_COPIED_FLOATS)
    return 2 * source.nbytes / _median_s(lambda: target.copy_(source))


def gemm_rate() -> float:
    """Float32 operations a second, additions and multiplications, of PyTorch's matrix product."""
    side = torch.ones(_GEMM_SIDE, _GEMM_SIDE)
    product = torch.empty_like(side)
    return 2 * _GEMM_SIDE**3 / _median_s(lambda: torch.mm(side, side, out=product))


def machine_rates(threads: int) -> dict[str, float]:
    """Both rates on that many threads of PyTorch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return {"copy_bytes_s": copy_rate(), "gemm_flop_s": gemm_rate()}
    finally:
        torch.set_num_threads(before)


def _median_s(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(_ROUNDS):
        start_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds)
