"""What this machine is, and what it reaches at best."""

import torch
import triton

from benchmarks.certify.notes import Notes, need
from engine.report.environment import describe_environment
from engine.runtime.machine import driver

_PROPERTIES = ("name", "total_memory", "multi_processor_count", "L2_cache_size", "major", "minor")


def machine(notes: Notes) -> None:
    """Versions, the device's properties, its copy rate and its matrix products."""
    described = describe_environment("").to_json()
    notes.note("machine", described["machine"])
    notes.note("commit", described["commit"])
    notes.note("versions", described["versions"])
    cuda, cudnn = torch.version.cuda, torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    notes.note("below", {"triton": triton.__version__, "cuda": cuda, "cudnn": cudnn})
    notes.note("driver", driver() or "no GPU")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        properties = torch.cuda.get_device_properties(device)
        notes.note("device", {name: getattr(properties, name) for name in _PROPERTIES})
    need("cv2")
    from benchmarks.timing import machine_rates

    threads = torch.get_num_threads()
    for name, tensor_cores in (("float32", False), ("bfloat16", True)):
        if device == "cuda" or not tensor_cores:
            rates = machine_rates(threads, device, tensor_cores=tensor_cores)
            notes.note(f"rates, {name}", {key: float(rate) for key, rate in rates.items()})
