"""Run one image from disk to submission, and print which functions of the engine ran, as JSON.

    python -m tests.walk_trace FOLDER

A run of two training frames, one for each fold, and one test frame, then `engine.predict` on it.
Functions are those of `engine/`, and of each kernel's `op.py`; module and class bodies are none.
"""

import inspect
import json
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

# What the engine imports is imported before it is traced: that would take ten seconds.
import numba  # noqa: F401
import numpy as np
import scipy  # noqa: F401
import timm  # noqa: F401
import torch  # noqa: F401
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
HW = (96, 128)

FLAGS = {
    "data.fold_kind": "blocked",
    "model.encoder": "test_efficientnet",
    "model.weights": "none",
    "model.input": "rgbd",
    "model.pyramid_channels": 8,
    "model.segmentation_channels": 32,
    "data.folds": 2,
    "data.blocks_per_fold": 1,
    "data.input_hw": "96,128",
    "data.crop_hw": "64,96",
    "training.epochs": 1,
    "training.batch_size": 1,
    "inference.base_hw": "96,128",
    "inference.scales": "0.75,1.0",
}


def write_dataset(root: Path) -> None:
    """Two training frames and a test frame of noise, image as JPEG."""
    rng = np.random.default_rng(0)
    for split, stem in (("train", "000"), ("train", "001"), ("test", "100")):
        parts: dict[str, NDArray[Any]] = {
            "image/{}.jpg": rng.integers(0, 256, (*HW, 3), dtype=np.uint8),
            "depth/{}.png": rng.integers(700, 9000, HW).astype(np.uint16),
            "label/{}.png": rng.integers(0, 13, HW, dtype=np.uint8),
        }
        for name, pixels in parts.items():
            if split == "train" or not name.startswith("label"):
                path = root / split / name.format(stem)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


def trace(folder: Path) -> dict[str, list[str]]:
    """Train, predict and submit in `folder`; the functions that ran, by file below the root."""
    write_dataset(folder / "data")
    ran: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            ran.add(frame.f_code)

    flags = {**FLAGS, "data.root": folder / "data", "runtime.cache": folder / "cache"}
    arguments = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        from engine import predict, train

        config = str(ROOT / "configs" / "lite.toml")
        assert train.main(["--config", config, "--out", str(folder / "run"), *arguments]) == 0
        assert predict.main([str(folder / "run"), str(folder / "data" / "test" / "image")]) == 0
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    found: dict[str, set[str]] = {}
    for code in ran:
        path = Path(code.co_filename)
        # Class bodies are no functions, and what a module does when it is imported is none.
        is_function = code.co_flags & inspect.CO_NEWLOCALS and code.co_qualname[0] != "<"
        if is_function and path.is_relative_to(ROOT):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith("engine/") or (name.startswith("kernels/") and path.name == "op.py"):
                found.setdefault(name, set()).add(code.co_qualname)
    return {name: sorted(names) for name, names in sorted(found.items())}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(trace(Path(sys.argv[1])), indent=1) + "\n")
