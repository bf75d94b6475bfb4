"""What the operations of all folders share for the GPU."""

from torch import Tensor


def uses_triton(tensor: Tensor) -> bool:
    """Triton runs what is on a GPU, Numba the rest."""
    return tensor.is_cuda


def power_of_two(least: int) -> int:
    """The smallest power of two that is not below `least`, 1 or more: a side of a Triton tile."""
    return 1 << (least - 1).bit_length()
