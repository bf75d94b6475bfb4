"""What the operations of all folders share for the GPU."""

import torch
from torch import Tensor


def uses_triton(tensor: Tensor) -> bool:
    """Triton runs what is on a GPU, Numba the rest."""
    return tensor.is_cuda


def power_of_two(least: int) -> int:
    """The smallest power of two that is not below `least`, 1 or more: a side of a Triton tile."""
    return 1 << (least - 1).bit_length()


def stream(tensor: Tensor) -> int:
    """Number of the stream that a GPU's work on a tensor is now put on; 0 in the interpreter."""
    return int(torch.cuda.current_stream(tensor.device).cuda_stream) if tensor.is_cuda else 0


def upload(host: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU on `device`; a GPU copies it behind the host's back."""
    if device.type != "cuda":
        return host.to(device)
    # Only what is pinned can be read later. It may be dropped at once: torch's allocator notes an
    # event behind whatever reads it and gives its memory to nobody before.
    return host.pin_memory().to(device, non_blocking=True)
