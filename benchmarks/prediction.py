"""The least time of a kernel: instructions that its schedulers issue, bytes that its memory moves.

    max(warp instructions / (schedulers x clock), bytes / bandwidth) + 2 us a launch

A scheduler issues one instruction a clock. What waits (for memory, for barriers, for units narrower
than a warp) is not in it, so that no kernel is faster and most are slower.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.lowering import Lowered
from benchmarks.sass import Block

LAUNCH_S = 2e-6
"""From the end of a kernel to the start of the next, the host ahead."""

_SCHEDULERS = 4
"""Of a multiprocessor, in every architecture here."""


class Gpu(NamedTuple):
    """What a GPU of an architecture can do."""

    name: str
    architecture: int
    """Compute capability x 10."""
    multiprocessors: int
    clock_hz: float
    bytes_per_s: float
    """To and from its memory."""


# NVIDIA's data sheets; clocks: boost, the H100's that which it keeps under load.
GPUS = {
    80: Gpu("A100 SXM", 80, 108, 1.410e9, 2.04e12),
    90: Gpu("H100 SXM", 90, 132, 1.755e9, 3.35e12),
    100: Gpu("B200", 100, 148, 1.980e9, 7.7e12),
}


class Nest(NamedTuple):
    """A loop as the source has it: how often a warp goes through it, each time it comes to it."""

    trips: float
    """A mean, where programs differ."""
    loops: tuple["Nest", ...] = ()
    """The loops directly in it, in order."""


class Cost(NamedTuple):
    """What a launch, or several one after another, take on a GPU."""

    launches: int
    warp_instructions: float
    bytes: float
    issue_s: float
    """The schedulers' time."""
    memory_s: float
    """The memory's time."""
    seconds: float
    """Of each launch the longer of the two, and the launch."""


def warp_instructions(code: Block, loops: Sequence[Nest]) -> float:
    """What a warp issues in a program.

    Args:
        code: the machine code.
        loops: those of the kernel, as the source nests them.

    Raises:
        ValueError: the machine code has other loops, so that these counts are not its.
    """
    if len(code.loops) != len(loops):
        raise ValueError(
            f"the machine code has {_described(code.loops)} where {len(loops)} are stated: the "
            "kernel was changed, or its compiler unrolled or moved a loop; state its loops anew"
        )
    inner = zip(code.loops, loops, strict=True)
    return code.own + sum(nest.trips * warp_instructions(loop, nest.loops) for loop, nest in inner)


def kernel_cost(
    lowered: Lowered, loops: Sequence[Nest], warps: int, moved: Mapping[str, float], gpu: Gpu
) -> Cost:
    """Of one launch of a Triton kernel.

    Args:
        lowered: the kernel for this GPU's architecture.
        loops: as `warp_instructions` takes them.
        warps: of all programs.
        moved: bytes of each array.
        gpu: where it runs.

    Raises:
        ValueError: the loops are other ones, or ptxas has unrolled one.
    """
    for name, in_ptx in (("LDG", lowered.loads), ("STG", lowered.stores)):
        found = sum(n for kind, n in lowered.code.counts.items() if kind.startswith(name))
        if found > sum(in_ptx.values()):
            raise ValueError(
                f"ptxas made {found} {name} of {sum(in_ptx.values())}: it has unrolled a loop, "
                "whose trips are no longer those of the source"
            )
    issued = warps * warp_instructions(lowered.code, loops)
    return _cost(issued, sum(moved.values()), gpu)


def pytorch_cost(moved: float, gpu: Gpu) -> Cost:
    """Of one launch of a kernel of PyTorch's, whose instructions are not known: of its bytes."""
    return _cost(0.0, moved, gpu)


def total(costs: Sequence[Cost]) -> Cost:
    """Of launches that wait for one another."""
    return Cost(
        sum(cost.launches for cost in costs),
        sum(cost.warp_instructions for cost in costs),
        sum(cost.bytes for cost in costs),
        sum(cost.issue_s for cost in costs),
        sum(cost.memory_s for cost in costs),
        sum(cost.seconds for cost in costs),
    )


def _cost(issued: float, moved: float, gpu: Gpu) -> Cost:
    issue_s = issued / (gpu.multiprocessors * _SCHEDULERS * gpu.clock_hz)
    memory_s = moved / gpu.bytes_per_s
    return Cost(1, issued, moved, issue_s, memory_s, max(issue_s, memory_s) + LAUNCH_S)


def _described(loops: Sequence[Block]) -> str:
    """As "2 loops (of 503, 40 instructions)"."""
    if not loops:
        return "no loop"
    lengths = ", ".join(str(loop.instructions) for loop in loops)
    return f"{len(loops)} loop{'s' * (len(loops) > 1)} (of {lengths} instructions)"
