"""What computed: versions, machine and commit, for whoever reads a run; its peak of memory."""

import importlib.metadata
import os
import platform
import resource

import torch

from engine.runtime.machine import commit, processor
from engine.runtime.recorded import Environment, Machine

PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "nvidia-dali-cuda130", "safetensors")
"""Distributions whose versions a result may depend on."""


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
        processor=processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )
    return Environment(
        versions=versions, machine=machine, commit=commit(), dataset_fingerprint=fingerprint
    )


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
