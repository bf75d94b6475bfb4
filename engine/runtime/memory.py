"""Memory of a device: all that this process may use, and what of it is free."""

import ctypes
import os
import sys
from pathlib import Path

import torch

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def total_bytes(device: torch.device) -> int:
    """Memory of the device; of a CPU, what a container may use of it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _container_limit()
    return total if limit is None else min(total, limit)


def free_bytes(device: torch.device) -> int:
    """Memory that could be allocated now; what this process freed counts as free."""
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
