"""What computed: versions, machine and commit, for whoever reads a run; its peak of memory."""

import os
import platform
import resource

import torch

from engine.runtime.machine import processor
from engine.runtime.recorded import Environment, Machine
from engine.runtime.software import commit, versions


def describe_environment(fingerprint: str) -> Environment:
    """What computes now, on the dataset of that fingerprint."""
    machine = Machine(
        system=platform.platform(),
        processor=processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )
    return Environment(
        versions=versions(), machine=machine, commit=commit(), dataset_fingerprint=fingerprint
    )


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
