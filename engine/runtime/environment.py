"""What a run is made with: versions, machine and commit; and how much memory there is."""

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
from pathlib import Path

import torch

from engine.rundir import Record

PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "nvidia-dali-cuda130", "safetensors")
"""Distributions whose versions a result may depend on."""

CGROUP = Path("/sys/fs/cgroup")
"""What limits a container: https://docs.kernel.org/admin-guide/cgroup-v2.html."""


class Machine(Record):
    """What computed."""

    system: str
    processor: str
    cores: int | None
    threads: int
    """torch's, on the CPU"""
    gpu: str | None


class Environment(Record):
    """`environment.json`: what a run was made with."""

    versions: dict[str, str | None]
    """of Python and of each of `PACKAGES`, None if it is not installed"""
    machine: Machine
    commit: str | None
    """of this project, with "-dirty" if it was changed"""
    dataset_fingerprint: str


def describe_environment(fingerprint: str) -> Environment:
    """What computes now, on the dataset of that fingerprint."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    machine = Machine(
        system=platform.platform(),
        processor=_processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )
    return Environment(
        versions=versions, machine=machine, commit=_commit(), dataset_fingerprint=fingerprint
    )


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def total_bytes(device: torch.device) -> int:
    """Memory of the device; of a CPU, what a container may use of it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(total, container_bytes() or total)


def container_bytes() -> int | None:
    """Memory that the container may use; None if there is no limit."""
    path = CGROUP / "memory.max"
    allowed = path.read_text("ascii").strip() if path.exists() else "max"
    return int(allowed) if allowed.isdigit() else None


def _commit() -> str | None:
    folder = Path(__file__).resolve().parent.parent.parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        told = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"^model name\s*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor()
