"""A small sound dataset, and where what was checked of it is remembered."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.frames import decode as frame_decode
from engine.frames.index import CheckMemory
from tests.frames.small_dataset import TEST, TRAIN


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks happen an hour after the files were written."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)


@pytest.fixture
def root(tmp_path: Path, later: None) -> Path:
    rng = np.random.default_rng(0)
    for number in range(TRAIN + TEST):
        hw = (20 + number, 30)
        split = tmp_path / "root" / ("train" if number < TRAIN else "test")
        files = {
            "image": (rng.integers(0, 256, (*hw, 3), np.uint8), "jpg" if number % 2 else "png"),
            "depth": (rng.integers(0, 9000, hw, np.uint16), "png"),
            "label": (rng.integers(0, 13, hw, np.uint8), "png"),
        }
        for kind, (pixels, suffix) in files.items():
            if kind != "label" or number < TRAIN:
                (split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(split / kind / f"{number}.{suffix}")
    return tmp_path / "root"


@pytest.fixture
def memory(tmp_path: Path) -> CheckMemory:
    return CheckMemory(tmp_path / "cache")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stems of the frames that were read, extended by each check."""
    stems: list[str] = []

    def check(root: Path, files: Any, **options: Any) -> Any:
        stems.append(files.stem)
        return frame_decode.check_frame(root, files, **options)

    monkeypatch.setattr("engine.frames.index.check_frame", check)
    return stems
