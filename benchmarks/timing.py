"""Time callables against one another, interleaved in one process; what is wrong is not timed."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt: man 3 mallopt."""

_QUIET_S = 0.02
"""OpenMP's threads spin for some milliseconds after a side has run; the next is not to pay."""

_AHEAD_CYCLES = 10_000_000
"""About 5 ms in which a GPU waits, so that the host has launched a whole call before it begins."""
_FLUSH_BYTES = 1 << 28
"""More than the second-level cache of any GPU: a call finds none of its inputs there."""


@dataclass(frozen=True)
class Work:
    """What an operation cannot do without: the floor of any implementation.

    Attributes:
        bytes: its inputs once and its outputs once.
        flops: float32 additions, multiplications, comparisons; an exponential counts as twenty.
        threads: how many threads it is timed on.
    """

    bytes: int
    flops: int
    threads: int

    def floor_s(self, rates: Mapping[str, float]) -> float:
        """Seconds at the machine's best rates, memory and arithmetic fully overlapped."""
        return max(self.bytes / rates["copy_bytes_s"], self.flops / rates["gemm_flop_s"])


@dataclass(frozen=True)
class Case:
    """One operation at one size, ours and its rivals.

    Attributes:
        name: of the row.
        ours: does the work once and returns its result.
        rivals: the same work by other means, by their names.
        work: what must be moved and computed.
        device: where both sides work; on a GPU it is the device's time that is taken.
        check: takes a rival's name, our result and its result; raises AssertionError if they
            differ by more than rounding.
    """

    name: str
    ours: Callable[[], Any]
    rivals: Mapping[str, Callable[[], Any]]
    work: Work
    check: Callable[[str, Any, Any], None]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass
class Timed:
    """Seconds of every round of one case, and the extra memory of one call."""

    case: Case
    ours_s: list[float] = field(default_factory=list)
    rivals_s: dict[str, list[float]] = field(default_factory=dict)
    ours_mib: float = 0.0
    rivals_mib: dict[str, float] = field(default_factory=dict)
    floor_s: float = 0.0

    def row(self, rival: str) -> dict[str, Any]:
        """The row of the published JSON: ratio = rival / ours, round by round."""
        theirs_s = self.rivals_s[rival]
        ratios = [their_s / our_s for our_s, their_s in zip(self.ours_s, theirs_s, strict=True)]
        return {
            "name": self.case.name,
            "rival": rival,
            "median_s": statistics.median(self.ours_s),
            "rival_median_s": statistics.median(theirs_s),
            "ratio": statistics.median(ratios),
            "quartiles": quartiles(ratios),
            "quartiles_s": quartiles(self.ours_s),
            "rival_quartiles_s": quartiles(theirs_s),
            "peak_extra_mib": round(self.ours_mib, 1),
            "rival_peak_extra_mib": round(self.rivals_mib[rival], 1),
            "bytes": self.case.work.bytes,
            "flops": self.case.work.flops,
            "floor_s": self.floor_s,
            "share_of_floor": self.floor_s / statistics.median(self.ours_s),
        }


def run_case(case: Case, rounds: int, say: Callable[[str], None]) -> Timed:
    """Check every rival's result against ours, then time them in turns.

    Args:
        case: what to run.
        rounds: how often each side runs; within a round each runs once, in alternating order.
        say: told what is going on, in a few words.

    Raises:
        AssertionError: a result is wrong; nothing is timed then.
    """
    say(f"{case.name}: checking")
    once = _once if case.device.type == "cpu" else _once_on_gpu
    expected = case.ours()
    for name, rival in case.rivals.items():
        # The first call of a compiled rival compiles it, which is not timed.
        case.check(name, expected, rival())
    del expected
    # What lives now need not be walked before each run, which would leave the caches cold.
    gc.collect()
    gc.freeze()
    timed = Timed(case, rivals_s={name: [] for name in case.rivals})
    sides: list[tuple[Callable[[], Any], list[float]]] = [(case.ours, timed.ours_s)]
    sides += [(rival, timed.rivals_s[name]) for name, rival in case.rivals.items()]
    for number in range(rounds):
        say(f"{case.name}: round {number + 1}/{rounds}")
        for call, seconds in sides if number % 2 else reversed(sides):
            seconds.append(once(call))
    return timed


def measure_memory(timed: Sequence[Timed]) -> None:
    """Fill in the peak extra memory of one call of each side, in MiB: resident, or of the GPU's.

    To be called after all timing: it makes the allocator hand freed memory back at once, which
    slows every side down but shows each allocation.
    """
    libc = ctypes.CDLL("libc.so.6")
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        libc.mallopt(parameter, 64 * 1024)
    for entry in timed:
        on_cpu = entry.case.device.type == "cpu"
        peak_mib = partial(_peak_extra_mib, libc=libc) if on_cpu else _peak_extra_gpu_mib
        entry.ours_mib = peak_mib(entry.case.ours)
        for name, rival in entry.case.rivals.items():
            entry.rivals_mib[name] = peak_mib(rival)


def assert_close(rival: str, ours: Tensor, theirs: Tensor, *, rtol: float, atol: float) -> None:
    """`torch.testing.assert_close` whose message names the rival."""
    torch.testing.assert_close(
        ours, theirs, rtol=rtol, atol=atol, msg=lambda text: f"{rival}: {text}"
    )


def quartiles(values: Sequence[float]) -> list[float]:
    """First and third quartile; the value itself, twice, if there is only one."""
    if len(values) < 2:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def _once(call: Callable[[], Any]) -> float:
    gc.collect()
    gc.disable()
    time.sleep(_QUIET_S)
    start_s = time.perf_counter()
    result = call()
    elapsed_s = time.perf_counter() - start_s
    gc.enable()
    del result
    return elapsed_s


def _once_on_gpu(call: Callable[[], Any]) -> float:
    """Seconds of the device from the first launch of a call to its last, caches cold."""
    gc.collect()
    gc.disable()
    torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda").zero_()
    torch.cuda.synchronize()
    start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
    # Without it the device would wait for the host between kernels, and that would be timed.
    torch.cuda._sleep(_AHEAD_CYCLES)  # type: ignore[no-untyped-call]
    start.record()
    result = call()
    end.record()
    torch.cuda.synchronize()
    gc.enable()
    del result
    return float(start.elapsed_time(end)) / 1000


def _peak_extra_gpu_mib(call: Callable[[], Any]) -> float:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return (peak - before) / 2**20


def _peak_extra_mib(call: Callable[[], Any], libc: ctypes.CDLL) -> float:
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
