"""Which software computes: versions of the packages, and the commit; loads none of them."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "nvidia-dali-cuda130", "safetensors")
"""Distributions whose versions a result may depend on."""


def versions() -> dict[str, str | None]:
    """The version of Python and of each of `PACKAGES`, None if it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    return found | {name: version(name) for name in PACKAGES}


def version(name: str) -> str | None:
    """The version of a distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """This project's, with "-dirty" if it was changed; None where there is no repository."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        told = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.strip() or None
