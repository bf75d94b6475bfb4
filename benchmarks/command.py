"""What the commands of the benchmarks have in common."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.cli import ConfigError, load_config
from engine.config import Config

_CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_SIZES = {"lite": ("exp093_2.toml", "lite.toml"), "full": ("exp093_2.toml",)}

_EXTRA = ("cv2", "albumentations", "matplotlib", "segmentation_models_pytorch")
"""What the plain recipe and the curves need of the extra."""


def say(words: str) -> None:
    """Tell the user what is going on, beside the figures."""
    print(words, file=sys.stderr, flush=True)


def at_least(least: int) -> Callable[[str], int]:
    """The type of a flag that takes a number from `least` on."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    return number


def check_installed() -> None:
    """Refuse to begin without the libraries of the plain recipe and of the curves."""
    if missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"{', '.join(missing)} cannot be imported; pip install 'roomsmith[bench]'"
        )


def load_size(size: str, flags: Mapping[str, Any], device: str) -> Config:
    """The experiment of a size, "lite" or "full", on a device unless a flag names another."""
    runtime = {"device": device, **flags.get("runtime", {})}
    return load_config([_CONFIGS / name for name in _SIZES[size]], {**flags, "runtime": runtime})
