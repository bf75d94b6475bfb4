"""What the commands of the benchmarks have in common."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.cli import load_config
from engine.config import Config
from engine.mistakes import ConfigError

_CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_SIZES = {"lite": ("exp093_2.toml", "lite.toml"), "full": ("exp093_2.toml",)}


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of a command of this name, which can leave its figures in a file."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, allow_abbrev=False
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    return made


def at_least(least: int) -> Callable[[str], int]:
    """The type of a flag that takes a number from `least` on."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    return number


def check_ready(*libraries: str, gpu: bool = False) -> None:
    """Refuse to begin without libraries of the extra, or without a CUDA device if one is asked for.

    Raises:
        ConfigError: something is not there.
    """
    if names := [name for name in libraries if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"{', '.join(names)} cannot be imported; pip install 'roomsmith[bench]'")
    if gpu:
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("--gpu, but torch finds no CUDA device; leave it out to use the CPU")


def load_size(size: str, flags: Mapping[str, Any], device: str) -> Config:
    """The experiment of a size, "lite" or "full", on a device unless a flag names another."""
    runtime = {"device": device, **flags.get("runtime", {})}
    return load_config([_CONFIGS / name for name in _SIZES[size]], {**flags, "runtime": runtime})


def describe_machine() -> dict[str, Any]:
    """Processor, threads, versions of ours and of the rivals that are installed, commit."""
    from engine.report.environment import describe_environment

    described = describe_environment(fingerprint="").model_dump(exclude={"dataset_fingerprint"})
    for name in ("opencv-python-headless", "albumentations", "torchmetrics", "scikit-learn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            described["versions"][name] = importlib.metadata.version(name)
    return described


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all."""
    from engine.whole import write_text

    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
