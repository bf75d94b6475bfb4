"""Which config a dataset gets that comes without one, and why: `--data.root DATA` alone."""

import importlib.metadata
import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from engine.frames.glance import image_hw
from engine.frames.index import list_dataset
from engine.named import CONFIGS
from engine.runtime.machine import driver

_log = logging.getLogger(__name__)

EXPERIMENT, WITH_DEPTH, SMALLER = "exp093_2", "exp093_5", "lite"
"""On RGB, on RGB-D, and the overlay that brings either to a CPU's size. Over `lite` the two were
measured to differ by 0.0007 of mIoU (-0.0059 .. +0.0075), so the one that needs less is taken."""

_STRETCH = 1.1
"""Sides' ratio, by that of 3:4, from which a config's stretching is told."""


def choose_config(root: Path, flags: Mapping[str, JsonValue]) -> list[Path]:
    """The configs to take for a dataset folder; tells in a line or two which, and why.

    Only what decides is looked at: the folder's names, the size of an image, whether there is a
    GPU. What is wrong with the folder is for others to tell. `flags` are fields that are set.
    """
    (small, why), data = _is_small(flags), _section(flags, "data")
    asked = _section(flags, "model").get("input")
    names = [WITH_DEPTH if asked == "rgbd" else EXPERIMENT, *([SMALLER] if small else [])]
    whose = "the classes that are named" if "classes" in data else "the 13 classes of NYU Depth v2"
    told = "%s has no config: taking %s, for %s (%s)"
    _log.info(told, root, " ".join(names), whose, why)
    if (root / "train" / "depth").is_dir() and asked is None:
        instead = " ".join([WITH_DEPTH, *names[1:]])
        _log.info("its depth maps teach, and are not seen: for RGB-D as input type %s", instead)
    hw = None
    if (root / "train").is_dir():
        hw = image_hw(list_dataset(root, need_depth=False).train)
    if hw and not 1 / _STRETCH < hw[1] / hw[0] / (4 / 3) < _STRETCH and "fit" not in data:
        told = "its frames of %d x %d pixels are stretched to 3:4; to keep their aspect type %s"
        _log.info(told, *hw, "data.fit=keep inference.base_hw=training")
    return [CONFIGS / f"{name}.toml" for name in names]


def _is_small(flags: Mapping[str, JsonValue]) -> tuple[bool, str]:
    """Whether a CPU is to train, and how that is known without loading PyTorch."""
    device = str(_section(flags, "runtime").get("device", "auto"))
    full = "as published, folds shuffled: data.fold_kind=blocked for recordings"
    if device.startswith("cuda"):
        return False, f"{device} is asked for: {full}"
    if device == "cpu":
        return True, "the CPU is asked for"
    try:
        built = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        built = "unknown"
    if driver() is None or built.endswith("+cpu"):
        return True, "no GPU is present: its size suits a CPU"
    return False, f"a GPU is present: {full}"


def _section(flags: Mapping[str, JsonValue], name: str) -> Mapping[str, JsonValue]:
    found = flags.get(name)
    return found if isinstance(found, dict) else {}
