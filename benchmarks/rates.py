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


def machine_rates(
    threads: int, device: str = "cpu", *, tensor_cores: bool = True
) -> dict[str, float]:
    """Both rates of a device: bytes a second of a copy, operations a second of a product.

    Args:
        threads: of PyTorch, where the device is the CPU.
        device: "cpu", or a CUDA device.
        tensor_cores: multiply in bfloat16 on a GPU, what the engine's networks run in there.
            Otherwise, as on the CPU, in float32.

    Returns:
        `copy_bytes_s`, read and written together; `gemm_flop_s`, additions and multiplications.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        source = torch.ones(_COPIED_FLOATS, device=device)
        target = torch.zeros_like(source)
        copied_s = _median_s(lambda: target.copy_(source), device)
        size = _GEMM_SIDE if device == "cpu" else _CUDA_GEMM_SIDE
        dtype = torch.bfloat16 if tensor_cores and device != "cpu" else torch.float32
        # Random: a GPU runs faster, for want of power, where it multiplies ones or zeros.
        side = torch.randn(size, size, device=device).to(dtype)
        product = torch.empty_like(side)
        multiplied_s = _median_s(lambda: torch.mm(side, side, out=product), device)
    finally:
        torch.set_num_threads(before)
    copied, multiplied = 2 * source.nbytes, 2 * size**3
    return {"copy_bytes_s": copied / copied_s, "gemm_flop_s": multiplied / multiplied_s}


def _median_s(call: Callable[[], object], device: str) -> float:
    wait = torch.cuda.synchronize if device != "cpu" else bool
    seconds = []
    for _ in range(_ROUNDS + 1):
        start_s = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - start_s)
    # The first call warms up.
    return statistics.median(seconds[1:])
