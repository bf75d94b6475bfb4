"""How many images may pass a network together: what memory is free, and what a pass takes of it."""

import copy
import ctypes
import functools
import logging
import math
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.runtime.device import CGROUP, container_bytes

_tell_once = functools.cache(logging.getLogger(__name__).info)
"""Logs the same message once."""

_MEMINFO = Path("/proc/meminfo")

PROBE_HW = (128, 128)
"""Height and width of the pass whose memory is counted, pixels: what it takes grows with them."""

_SPARE = 2.0
"""Bytes allowed for a pass by bytes counted: libraries reorder what they read, totals need room."""

_USABLE = 0.5
"""Share of the free memory that passes may take; the rest is for whoever else runs here."""

MOST_A_PIXEL = 1 << 14
"""Bytes of a pass for each pixel of its view, far beyond what networks take: 220 with a ResNet-101,
720 with a Swin-L, the most of seven encoders. Where these fit, none are counted: that takes half a
second, most of it to import SymPy.
"""


def pass_pixels(
    count: Callable[[], int], device: torch.device, memory_gib: float, wanted: int
) -> float:
    """Pixels of input, of `wanted`, that may pass together, by what is free on `device` now.

    The network is on the device already; `count` tells its `pass_bytes`, and is asked where
    `MOST_A_PIXEL` do not fit. Passes may take `memory_gib` at most; 0 = any. Networks that take
    turns share it, see `engine.runtime.graphs`: each may ask for the whole.
    """
    free = min(memory_gib * (1 << 30) or math.inf, _USABLE * release_free_bytes(device))
    if _SPARE * MOST_A_PIXEL * wanted <= free:
        return wanted
    return free * math.prod(PROBE_HW) / (_SPARE * count())


def frames_a_pass(pixels: float, hw: tuple[int, int], wanted: int) -> int:
    """How many frames of size `hw` may pass together, one at least; logged if not all `wanted`."""
    most = max(1, int(min(pixels / math.prod(hw), wanted)))
    if most < wanted:
        _tell_once("views of %d x %d: %d a pass, free memory holds no more", *hw, most)
    return most


def release_free_bytes(device: torch.device) -> int:
    """Memory that could be allocated now; what this process freed is returned first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    return_freed()
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if _MEMINFO.exists():
        # Pages of files that could be dropped count too.
        free = _fields(_MEMINFO)["MemAvailable:"] * 1024
    limit = container_bytes()
    if limit is not None:
        # As above: a container's usage holds the pages of the files that it has read.
        pages = _fields(CGROUP / "memory.stat")
        used = int((CGROUP / "memory.current").read_text("ascii"))
        used -= pages["inactive_file"] + pages["active_file"]
        free = min(free, max(0, limit - used))
    return free


def return_freed() -> None:
    """Give back what glibc's allocator keeps, as `engine.runtime.device` has it do; else nothing.

    What is freed in blocks of one size and asked for in those of another is else kept beside them.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@torch.inference_mode()
def pass_bytes(network: nn.Module, in_channels: int) -> int:
    """Most bytes that tensors of one float32 pass of one 128 x 128 image hold at a time.

    Counted on the meta device: nothing is computed. Weights are not counted, the input is.
    """
    with torch.device("meta"):
        image_BCHW = torch.empty(1, in_channels, *PROBE_HW)
    twin = copy.deepcopy(network).to("meta").eval()
    living = _Living(image_BCHW.untyped_storage())
    with living:
        twin(image_BCHW)
    return living.peak


def step_bytes(network: nn.Module, in_channels: int, hw: tuple[int, int], images: int) -> int:
    """Most bytes that tensors of a float32 pass of so many images, forth and back, hold at a time.

    Counted as in `pass_bytes`; gradients of the weights are counted, weights are not, nor what an
    optimizer keeps, or a loss needs beside the network's outputs.
    """
    with torch.device("meta"):
        image_BCHW = torch.empty(images, in_channels, *hw)
    twin = copy.deepcopy(network).to("meta").train()
    living = _Living(image_BCHW.untyped_storage())
    with living, torch.enable_grad():
        outputs = [part for part in tree_leaves(twin(image_BCHW)) if isinstance(part, Tensor)]
        torch.autograd.backward(outputs, [torch.ones_like(part) for part in outputs])
    return living.peak


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    lines = [line.split() for line in path.read_text("ascii").splitlines()]
    return {line[0]: int(line[1]) for line in lines}


class _Living(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and that are still referred to."""

    def __init__(self, held: torch.UntypedStorage) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Views share their storage, so it is counted once, and for as long as any of them lives.
        self._storages = weakref.WeakSet([held])
        self.peak = held.nbytes()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [part for part in tree_leaves(made) if isinstance(part, Tensor)]
        self._storages.update(tensor.untyped_storage() for tensor in tensors)
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self._storages))
        return made
