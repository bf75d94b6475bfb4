"""What the commands of the benchmarks have in common."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli import load_config
from engine.config import Config
from engine.mistakes import ConfigError
from engine.suggest import Parser

if TYPE_CHECKING:  # NumPy, which --help does without
    from benchmarks.figures import Figures

_CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_LIGHTNING = ("lightning",)
_LIBRARIES = {
    "albumentations": ("albumentations",),
    "imagecodecs": ("imagecodecs",),
    "kornia": ("kornia",),
    "Lightning": _LIGHTNING,
    "Lightning, channels-last": _LIGHTNING,
    "Lightning, AMP, channels-last": _LIGHTNING,
    "ONNX Runtime": ("onnxruntime", "onnxscript"),
    "pyspng": ("pyspng",),
    "scikit-learn": ("sklearn",),
    "torchmetrics": ("torchmetrics",),
}
"""What each rival needs beyond what every benchmark of its command does."""

_VERSIONS_OF = (
    *("opencv-python-headless", "albumentations", "torchmetrics", "scikit-learn", "imagecodecs"),
    *("pyspng", "kornia", "onnxruntime", "lightning"),
)

_SIZES = {"lite": ("exp093_2.toml", "lite.toml"), "full": ("exp093_2.toml",)}


def parser(name: str, description: str | None) -> Parser:
    """The parser of a command of this name, which can leave its figures in a file."""
    made = Parser(prog=f"python -m benchmarks.{name}", description=description)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    return made


def add_budget(parser: argparse.ArgumentParser, default: object) -> None:
    """Let the user say how long the command may take; None if it was not said."""
    words = f"seconds in all, shared by what is measured (default: {default})"
    parser.add_argument("--budget-s", type=at_least(1), metavar="SECONDS", help=words)


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


def has(rival: str) -> bool:
    """Whether the libraries of a rival are installed; one that is left out is told."""
    if names := [name for name in _LIBRARIES.get(rival, ()) if not importlib.util.find_spec(name)]:
        from benchmarks.figures import say

        lacking = f"{', '.join(names)} cannot be imported; pip install 'roomsmith[bench]'"
        say(f"{rival} is left out: {lacking}")
    return not names


def load_size(size: str, flags: Mapping[str, Any], device: str) -> Config:
    """The experiment of a size, "lite" or "full", on a device unless a flag names another."""
    runtime = {"device": device, **flags.get("runtime", {})}
    return load_config([_CONFIGS / name for name in _SIZES[size]], {**flags, "runtime": runtime})


def describe_machine() -> dict[str, Any]:
    """Processor, threads, versions of ours and of the rivals that are installed, commit."""
    from engine.report.environment import describe_environment

    described = describe_environment(fingerprint="").model_dump(exclude={"dataset_fingerprint"})
    for name in _VERSIONS_OF:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            described["versions"][name] = importlib.metadata.version(name)
    return described


class Sheet:
    """The published JSON as it grows: each row printed in a line, the whole written at once.

    What it still lacks is named in it, under "unfinished".

    Attributes:
        content: the JSON, without what it lacks.
    """

    def __init__(self, path: Path | None, content: "Figures", parts: Sequence[str]) -> None:
        """Begin.

        Args:
            path: of the JSON; None = it is not wanted.
            content: the JSON without figures, an empty list for each kind of them.
            parts: names of all that is to come.
        """
        self.content, self._path, self._parts = content, path, list(parts)

    def add(self, part: str, kind: str, found: Sequence["Figures"]) -> None:
        """Add what a part has found to the list of its kind, such as "rows"."""
        from benchmarks.figures import line_of

        for row in found if kind == "rows" else ():
            print(line_of(row), flush=True)
        self.content[kind] += found
        self.finish(part)

    def finish(self, part: str) -> None:
        """Write the JSON, which lacks this part no longer."""
        self._parts.remove(part)
        if self._path is not None:
            lacking = {"unfinished": self._parts} if self._parts else {}
            write_json(self._path, self.content | lacking)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all."""
    from engine.whole import write_text

    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
