"""Time operations against one another, interleaved in one process; what is wrong is not timed."""

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.figures import OURS, Called, Work, take_turns

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt: man 3 mallopt."""

_QUIET_S = 0.02
"""OpenMP's threads spin for some milliseconds after a side has run; the next is not to pay."""

_AHEAD_CYCLES = 10_000_000
"""About 5 ms in which a GPU waits, so that the host has launched a whole call before it begins."""
_FLUSH_BYTES = 1 << 28
"""More than the second-level cache of any GPU: a call finds none of its inputs there."""


@dataclass(frozen=True)
class Case:
    """One operation at one size, ours and its rivals.

    Attributes:
        name: of the row.
        ours: does the work once and returns its result.
        rivals: the same work by other means, by their names.
        work: what must be moved and computed.
        check: takes a rival's name, our result and its result; raises AssertionError if they
            differ by more than rounding.
        device: where both sides work; on a GPU it is the device's time that is taken.
    """

    name: str
    ours: Callable[[], Any]
    rivals: Mapping[str, Callable[[], Any]]
    work: Work
    check: Callable[[str, Any, Any], None]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def sides(self) -> dict[str, Callable[[], Any]]:
        """Ours and the rivals by name."""
        return {OURS: self.ours, **self.rivals}


def time_case(case: Case, rounds: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Check every rival's result against ours, then time them in turns: seconds by side.

    Args:
        case: what to run.
        rounds: how often each side runs; within a round each runs once, in alternating order.
        say: told what is going on, in a few words.

    Raises:
        AssertionError: a result is wrong; nothing is timed then.
    """
    say(f"{case.name}: checking")
    expected = case.ours()
    for name, rival in case.rivals.items():
        # The first call of a compiled rival compiles it, which is not timed.
        case.check(name, expected, rival())
    del expected
    # What lives now need not be walked before each run, which would leave the caches cold.
    gc.collect()
    gc.freeze()
    seconds = _seconds if case.device.type == "cpu" else _gpu_seconds
    calls = {name: partial(_once, call, seconds) for name, call in case.sides.items()}
    taken = take_turns(case.name, calls, rounds, say)
    return {name: [called.seconds for called in made] for name, made in taken.items()}


def extra_memory(case: Case) -> dict[str, float]:
    """Peak extra memory of one call of each side, in MiB: resident, or of the GPU's.

    To be called after all timing: it makes the allocator hand freed memory back at once, which
    slows every side down but shows each allocation.
    """
    libc = ctypes.CDLL("libc.so.6")
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        libc.mallopt(parameter, 64 * 1024)
    on_cpu = case.device.type == "cpu"
    peak_mib = partial(_peak_mib, libc=libc) if on_cpu else _peak_gpu_mib
    return {name: peak_mib(call) for name, call in case.sides.items()}


def assert_close(rival: str, ours: Tensor, theirs: Tensor, *, rtol: float, atol: float) -> None:
    """`torch.testing.assert_close` whose message names the rival."""
    torch.testing.assert_close(
        ours, theirs, rtol=rtol, atol=atol, msg=lambda text: f"{rival}: {text}"
    )


def _once(call: Callable[[], Any], seconds: Callable[[Callable[[], Any]], float]) -> Called:
    gc.collect()
    gc.disable()
    taken = Called(seconds(call))
    gc.enable()
    return taken


def _seconds(call: Callable[[], Any]) -> float:
    time.sleep(_QUIET_S)
    start_s = time.perf_counter()
    result = call()
    elapsed_s = time.perf_counter() - start_s
    del result
    return elapsed_s


def _gpu_seconds(call: Callable[[], Any]) -> float:
    """Of the device from the first launch of a call to its last, caches cold."""
    torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda").zero_()
    torch.cuda.synchronize()
    start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
    # Without it the device would wait for the host between kernels, and that would be timed.
    torch.cuda._sleep(_AHEAD_CYCLES)  # type: ignore[no-untyped-call]
    start.record()
    result = call()
    end.record()
    torch.cuda.synchronize()
    del result
    return float(start.elapsed_time(end)) / 1000


def _peak_gpu_mib(call: Callable[[], Any]) -> float:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return (peak - before) / 2**20


def _peak_mib(call: Callable[[], Any], libc: ctypes.CDLL) -> float:
    gc.collect()
    libc.malloc_trim(0)
    # Writing 5 sets the kernel's mark of the peak back: man 5 proc.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before_mib = _status_mib("VmRSS")
    result = call()
    peak_mib = _status_mib("VmHWM")
    del result
    return max(0.0, peak_mib - before_mib)


def _status_mib(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}; memory is measured on Linux only")
