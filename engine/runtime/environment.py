"""What a run was made with: versions, machine, commit; and the hashes that tie its stages."""

import hashlib
import importlib.metadata
import os
import platform
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.rundir import RunDir

PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "nvidia-dali-cuda130", "safetensors")

RUNTIME_FIELDS = {"data": {"root"}}
"""Fields that may change between calls on one run: they change no result but by rounding."""


def describe_environment(fingerprint: str) -> dict[str, Any]:
    """Versions, machine and commit as JSON.

    Args:
        fingerprint: of the dataset.
    """
    import torch

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "commit": _commit(),
        "dataset_fingerprint": fingerprint,
    }


def identity(config: Config, *parts: str, sections: tuple[str, ...]) -> str:
    """SHA-256 over the named sections of a config, without its runtime fields, and `parts`."""
    digest = hashlib.sha256()
    for section in sections:
        model = getattr(config, section)
        fields = model.model_dump_json(exclude=RUNTIME_FIELDS.get(section))
        digest.update(f"{section}={fields}\n".encode())
    for part in parts:
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()


def weights_identity(config: Config, fingerprint: str, fold_of: Sequence[int]) -> str:
    """Hash of all that trained weights depend on.

    Args:
        config: the run's.
        fingerprint: of the dataset.
        fold_of: the fold that each training frame validates.
    """
    fold_list = ",".join(map(str, fold_of))
    return identity(config, fingerprint, fold_list, sections=("data", "model", "training"))


def stage_identity(config: Config, weights_hash: str, *parts: str) -> str:
    """Hash of what predictions are made from: training, inference settings and `parts`."""
    return identity(config, weights_hash, *parts, sections=("inference", "selection"))


def fold_hashes(config: Config, run_dir: RunDir) -> list[str]:
    """Hash of each fold's weights in a run folder; "untrained" for a fold without any."""
    paths = [run_dir.best(fold) for fold in range(config.data.folds)]
    return [file_hash(path) if path.exists() else "untrained" for path in paths]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _commit() -> str | None:
    folder = Path(__file__).resolve().parent.parent.parent
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
