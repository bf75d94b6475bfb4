"""What a step spends its time on: its longest kernels, time and bytes by kind of operation."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.figures import Figures

_KINDS = {
    "ours": r"roomsmith",
    "optimizer and average": r"_foreach|_fused_adam|lerp",
    "matrix products": r"\b(add|b|badd)?mm\b|matmul|linear",
    "convolutions": r"conv",
    "normalisation": r"(layer|group|batch)_norm",
    "activations": r"gelu|relu|silu|swish|sigmoid|hardtanh|threshold|dropout|bernoulli",
    "resampling": r"upsample|interpolate|pool",
    "casts and copies": r"copy|clone|contiguous|\bto\b|cat\b|stack|pad",
    "sums": r"\bsum|mean|norm",
    "elementwise": r"add|mul|sub|div|neg|where|abs|sgn|clamp|fill|zero|ones|reciprocal|isfinite",
}
"""Kinds by what the name of an operation holds; the first that fits."""

_LONGEST = 20
"""Kernels that are named; of a step's few hundred they take most of the time."""


def kind_of(operation: str) -> str:
    """The kind of an operation such as "aten::addmm"."""
    fits = (kind for kind, pattern in _KINDS.items() if re.search(pattern, operation))
    return next(fits, "other")


def measure_kinds(
    step: Callable[[], object], device: torch.device
) -> tuple[list[Figures], Figures]:
    """The longest kernels of one step, on a CPU operations; and by kind milliseconds and bytes.

    Args:
        step: not recorded: a replay does not say what its kernels belong to.
        device: that it runs on.
    """
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        step()
        if gpu:
            torch.cuda.synchronize()
    events = [event for event in profiler.key_averages() if not event.is_user_annotation]
    own = "self_device_time_total" if gpu else "self_cpu_time_total"
    kernel = DeviceType.CUDA if gpu else DeviceType.CPU
    ranked = sorted(
        (
            (getattr(event, own), event.count, event.key)
            for event in events
            if event.device_type == kernel
        ),
        reverse=True,
    )
    longest = [
        {"kernel": key[:120], "launches": count, "ms": round(us / 1000, 3)}
        for us, count, key in ranked[:_LONGEST]
    ]
    took_us, moved = Counter[str](), _Moved()
    for event in events:
        if event.device_type == DeviceType.CPU:
            took_us[kind_of(event.key)] += getattr(event, own)
    with moved:
        step()
    kinds = {
        kind: {"ms": round(took_us[kind] / 1000, 3), "bytes": moved.bytes[kind]}
        for kind, _ in (took_us + moved.bytes).most_common()
    }
    return longest, kinds


class _Moved(TorchDispatchMode):
    """Adds up, by kind, the bytes of the tensors that operations read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = Counter[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        # Neither moves anything.
        if not (func.is_view or "empty" in func.name()):
            tensors = [
                part for part in tree_leaves((args, kwargs, made)) if isinstance(part, Tensor)
            ]
            self.bytes[kind_of(func.name())] += sum(tensor.nbytes for tensor in tensors)
        return made
