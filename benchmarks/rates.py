"""What this machine can do at best: the floors that a measured time is held against."""

import statistics
import time
from collections.abc import Callable

import torch

_COPIED_FLOATS = 1 << 26
"""256 MiB: more than any cache of a desktop, and no first touch of memory within the timing."""
_GEMM_SIDE = 2048
_CUDA_GEMM_SIDE = 8192
"""A GPU is not full with less."""
_ROUNDS = 5


def copy_rate(device: str = "cpu") -> float:
    """Bytes a second, read and written together, of PyTorch's copy on its threads."""
    source = torch.ones(_COPIED_FLOATS, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _median_s(lambda: target.copy_(source), device)


def gemm_rate(device: str = "cpu", *, tensor_cores: bool = True) -> float:
    """Operations a second, additions and multiplications, of PyTorch's matrix product.

    Args:
        device: "cpu", or a CUDA device.
        tensor_cores: of a GPU, in bfloat16: what the engine's networks run in there. Otherwise, as
            on the CPU, in float32.
    """
    size = _GEMM_SIDE if device == "cpu" else _CUDA_GEMM_SIDE
    dtype = torch.bfloat16 if tensor_cores and device != "cpu" else torch.float32
    # Random: a GPU runs faster, for want of power, where it multiplies ones or zeros.
    side = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty_like(side)
    return 2 * size**3 / _median_s(lambda: torch.mm(side, side, out=product), device)


def machine_rates(
    threads: int, device: str = "cpu", *, tensor_cores: bool = True
) -> dict[str, float]:
    """Both rates of a device, on that many threads of PyTorch where it is the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return {
            "copy_bytes_s": copy_rate(device),
            "gemm_flop_s": gemm_rate(device, tensor_cores=tensor_cores),
        }
    finally:
        torch.set_num_threads(before)


def _median_s(call: Callable[[], object], device: str) -> float:
    wait = torch.cuda.synchronize if device != "cpu" else bool
    call()
    wait()
    seconds = []
    for _ in range(_ROUNDS):
        start_s = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds)
