"""Time operations against one another, interleaved in one process; what is wrong is not timed.

And what the machine can do at best: the floors that a measured time is held against.
"""

import ctypes
import gc
import re
import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks.figures import OURS, Called, Peaks, Rates, Turns, Work, check_alike, take_turns
from benchmarks.pace import Pace

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt: man 3 mallopt."""

_QUIET_S = 0.02
"""OpenMP's threads spin for some milliseconds after a side has run; the next is not to pay."""

_AHEAD_CYCLES = 10_000_000
"""About 5 ms in which a GPU waits, so that the host has launched a whole call before it begins."""
_FLUSH_BYTES = 1 << 28
"""More than the second-level cache of any GPU: a call finds none of its inputs there."""

_COPIED_FLOATS = 1 << 26
"""256 MiB: more than any cache of a desktop, and no first touch of memory within the timing."""
_GEMM_SIDE = 2048
_CUDA_GEMM_SIDE = 8192
"""A GPU is not full with less."""
_ROUNDS = 5

BF16_STEP = 2.0**-7
"""Relative distance of neighbouring bfloat16: results that were each rounded once may differ so."""


@dataclass(frozen=True)
class Case:
    """One operation at one size, ours and its rivals.

    Attributes:
        name: of the row.
        sides: by name, ours first: does the work once and returns its result.
        work: what must be moved and computed.
        check: takes our result and a rival's; raises AssertionError if they differ by more than
            rounding.
        device: where all sides work; on a GPU it is the device's time that is taken.
        threads: of PyTorch and OpenCV.
    """

    name: str
    sides: Mapping[str, Callable[[], Any]]
    work: Work
    check: Callable[[Any, Any], None]
    device: torch.device
    threads: int = field(default_factory=torch.get_num_threads)


def time_case(case: Case, rounds: int, pace: Pace | None = None) -> Turns:
    """Check every rival's result against ours, then time them in turns: the calls by side.

    Args:
        case: what to run.
        rounds: how often each side runs at most.
        pace: how long they may take, as a part that has begun; None = as long as they need.

    Raises:
        RuntimeError: a result is wrong; nothing is timed then.
    """
    pace = pace or Pace()
    with threads_of(case.threads):
        pace.tell(f"{case.name}: first call of {OURS}, not timed")
        expected = case.sides[OURS]()
        for rival, call in case.sides.items():
            if rival != OURS:
                pace.tell(f"{case.name}: first call of {rival}, not timed")
                # The first call of a compiled rival compiles it, which is not timed.
                check_alike(f"{case.name}, ours and {rival}", partial(case.check, expected, call()))
        del expected
        # What lives now need not be walked before each run, which would leave the caches cold.
        gc.collect()
        gc.freeze()
        seconds = _seconds if case.device.type == "cpu" else _gpu_seconds
        calls = {side: partial(_once, call, seconds) for side, call in case.sides.items()}
        return take_turns(case.name, calls, pace.limit(rounds, len(calls)), pace.tell)


def extra_memory(case: Case) -> Peaks:
    """By side the peak extra memory of one call, in MiB: resident, or of the GPU's.

    To be called after all timing: it makes the allocator hand freed memory back at once, which
    slows every side down but shows each allocation.
    """
    libc = ctypes.CDLL("libc.so.6")
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        libc.mallopt(parameter, 64 * 1024)
    on_cpu = case.device.type == "cpu"
    peak_mib = partial(_peak_mib, libc=libc) if on_cpu else _peak_gpu_mib
    with threads_of(case.threads):
        return {side: {"peak_extra_mib": peak_mib(call)} for side, call in case.sides.items()}


def machine_rates(threads: int, device: str = "cpu", *, tensor_cores: bool = True) -> Rates:
    """Both rates of a device: bytes a second of a copy, operations a second of a product.

    Args:
        threads: of PyTorch, where the device is the CPU.
        device: "cpu", or a CUDA device.
        tensor_cores: multiply in bfloat16 on a GPU, what the engine's networks run in there.
            Otherwise, as on the CPU, in float32.

    Returns:
        `copy_bytes_s`, read and written together; `gemm_flop_s`, additions and multiplications.
    """
    with threads_of(threads):
        source = torch.ones(_COPIED_FLOATS, device=device)
        target = torch.zeros_like(source)
        copied_s = _median_s(lambda: target.copy_(source), device)
        size = _GEMM_SIDE if device == "cpu" else _CUDA_GEMM_SIDE
        dtype = torch.bfloat16 if tensor_cores and device != "cpu" else torch.float32
        # Random: a GPU runs faster, for want of power, where it multiplies ones or zeros.
        side = torch.randn(size, size, device=device).to(dtype)
        product = torch.empty_like(side)
        multiplied_s = _median_s(lambda: torch.mm(side, side, out=product), device)
    copied, multiplied = 2 * source.nbytes, 2 * size**3
    return {"copy_bytes_s": copied / copied_s, "gemm_flop_s": multiplied / multiplied_s}


def status_mib(key: str) -> float:
    """A figure of this process's memory, MiB, by its name in man 5 proc.

    Raises:
        RuntimeError: this system does not tell it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    if (found := re.search(rf"^{key}:\s*(\d+) kB$", status, re.MULTILINE)) is None:
        raise RuntimeError(
            f"/proc/self/status has no line {key} here, by which memory is measured on a CPU; "
            "measure on a system whose kernel writes it"
        )
    return int(found[1]) / 1024


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """PyTorch and OpenCV on so many threads within the block."""
    before, before_cv = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(before_cv)


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
    before_mib = status_mib("VmRSS")
    result = call()
    peak_mib = status_mib("VmHWM")
    del result
    return max(0.0, peak_mib - before_mib)


def _median_s(call: Callable[[], object], device: str) -> float:
    wait = torch.cuda.synchronize if device != "cpu" else bool
    seconds = timeit.repeat(lambda: (call(), wait()), number=1, repeat=_ROUNDS + 1)
    # The first call warms up.
    return statistics.median(seconds[1:])
