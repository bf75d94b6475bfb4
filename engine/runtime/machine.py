"""What the machine is called, its processor and its GPU's driver; and what code runs on it."""

import platform
import re
import subprocess
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/version")
"""Where Linux says which of NVIDIA's it has loaded."""


def processor() -> str:
    """The processor's model, or as much as Python knows of it."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"^model name\s*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def driver() -> str | None:
    """The line that tells the driver's version; None if none is loaded."""
    return DRIVER.read_text("ascii").splitlines()[0] if DRIVER.exists() else None


def commit() -> str | None:
    """The commit that runs, and whether it was changed; None outside a checkout, or without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside a checkout of something else
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        told = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.strip() or None
