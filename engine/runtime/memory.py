"""Memory of a device: what this process may use, what is free, what a pass of a network takes."""

import copy
import ctypes
import os
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")

_PROBE_HW = (128, 128)
"""Height and width of the pass whose memory is counted, pixels: what it takes grows with them."""

_SPARE = 2.0
"""Bytes allowed for a pass by bytes counted: libraries reorder what they read, totals need room."""

_USABLE = 0.5
"""Share of the free memory that passes may take; the rest is for whoever else runs here."""


def total_bytes(device: torch.device) -> int:
    """Memory of the device; of a CPU, what a container may use of it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _container_limit()
    return total if limit is None else min(total, limit)


def release_free_bytes(device: torch.device) -> int:
    """Memory that could be allocated now; what this process freed is returned first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    _return_freed_memory()
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if _MEMINFO.exists():
        # Pages of files that could be dropped count too.
        free = _fields(_MEMINFO)["MemAvailable:"] * 1024
    limit = _container_limit()
    if limit is not None:
        # As above: a container's usage holds the pages of the files that it has read.
        pages = _fields(_CGROUP / "memory.stat")
        used = int((_CGROUP / "memory.current").read_text("ascii"))
        used -= pages["inactive_file"] + pages["active_file"]
        free = min(free, max(0, limit - used))
    return free


@dataclass(frozen=True)
class PassMemory:
    """Memory for passes of one network.

    Attributes:
        free: bytes that passes may take.
        pixel_bytes: bytes that a pass takes for each pixel of its input.
    """

    free: float
    pixel_bytes: float

    @classmethod
    def of(
        cls, network: nn.Module, in_channels: int, device: torch.device, memory_gib: float
    ) -> "PassMemory":
        """The room on `device` now, the network being there; `memory_gib` at most if given."""
        pixel_bytes = pass_bytes(network, in_channels) / (_PROBE_HW[0] * _PROBE_HW[1])
        most = memory_gib * (1 << 30) or float("inf")
        return cls(min(most, _USABLE * release_free_bytes(device)), _SPARE * pixel_bytes)

    def images(self, hw: tuple[int, int]) -> int:
        """How many images of this size may pass together; at least one."""
        return max(1, int(self.free / (self.pixel_bytes * hw[0] * hw[1])))


UNLIMITED = PassMemory(float(1 << 60), 1.0)
"""For a network whose passes are known to fit."""


@torch.inference_mode()
def pass_bytes(network: nn.Module, in_channels: int) -> int:
    """Most bytes that tensors of one float32 pass of one 128 x 128 image hold at a time.

    Counted on the meta device: nothing is computed. Weights are not counted, the input is.
    """
    with torch.device("meta"):
        image_BCHW = torch.empty(1, in_channels, *_PROBE_HW)
    twin = copy.deepcopy(network).to("meta").eval()
    living = _Living(image_BCHW.nbytes)
    with living:
        twin(image_BCHW)
    return living.peak


def _container_limit() -> int | None:
    """https://docs.kernel.org/admin-guide/cgroup-v2.html."""
    path = _CGROUP / "memory.max"
    allowed = path.read_text("ascii").strip() if path.exists() else "max"
    return int(allowed) if allowed.isdigit() else None


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    lines = [line.split() for line in path.read_text("ascii").splitlines()]
    return {line[0]: int(line[1]) for line in lines}


def _return_freed_memory() -> None:
    """Have glibc return what it keeps of freed memory, see `engine.runtime.device`."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class _Living(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and that are still referred to."""

    def __init__(self, held: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._held = held
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._held += size
        self.peak = max(self.peak, self._held)
        # Views share their storage, so it is counted once, and for as long as any of them lives.
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self._held -= size
