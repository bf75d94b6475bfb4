"""What the launches of the Triton kernels of all folders share."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Specialisation(NamedTuple):
    """All that decides the machine code of a kernel; the tests lower each."""

    kernel: Any
    """The function under `@triton.jit`."""
    signature: dict[str, str]
    """Argument -> type, as Triton's compiler writes it: "*fp32"; ":16" where a multiple of 16."""
    constants: dict[str, Any]
    """Argument -> value."""
    options: dict[str, Any]
    """Of the launch: num_warps and others."""


def specialise(
    kernel: Any, types: Mapping[str, str], constants: dict[str, Any], options: dict[str, Any]
) -> Specialisation:
    """The specialisation by the types of its arguments that are neither constant nor "i32"."""
    varying = [name for name in kernel.arg_names if name not in constants]
    signature = {name: types.get(name, "i32") for name in varying}
    return Specialisation(kernel, signature, constants, options)


def uses_triton(tensor: Tensor) -> bool:
    """Triton runs what is on a GPU, Numba the rest."""
    return tensor.is_cuda


def power_of_two(least: int) -> int:
    """The smallest power of two that is not below `least`, at least 1: a side of a Triton tile."""
    return 1 << (least - 1).bit_length()
