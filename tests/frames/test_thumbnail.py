"""A thumbnail holds the mean colour of each cell, and is remembered with the report."""

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.frames.findings import thumbnails
from engine.frames.index import DatasetSpec, load_dataset
from engine.frames.remembered import CheckMemory
from engine.frames.thumbnail import CELLS_HW, thumbnail


def cells(image: np.ndarray) -> np.ndarray:
    return np.frombuffer(base64.b64decode(thumbnail(image)), np.uint8).reshape(*CELLS_HW, 3)


def test_a_cell_is_the_mean_of_its_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (36, 60, 3), dtype=np.uint8)
    mean = image.reshape(9, 4, 12, 5, 3).mean(axis=(1, 3))
    assert np.abs(cells(image) - mean).max() <= 1
    # Of a large image some pixels are taken, evenly.
    large = np.kron(image, np.ones((20, 20, 1), np.uint8))
    assert np.abs(cells(large) - mean).max() <= 8


@pytest.mark.parametrize("hw", [(1, 1), (5, 30), (9, 12), (20, 4000)])
def test_an_image_of_any_size_has_one(hw: tuple[int, int]) -> None:
    for level in (0, 77, 255):
        assert (cells(np.full((*hw, 3), level, np.uint8)) == level).all()


def test_training_frames_are_remembered_with_theirs(tmp_path: Path) -> None:
    root, rng = tmp_path / "data", np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 18, 24, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        for kind, pixels in (("image", image), ("label", np.zeros((18, 24), np.uint8))):
            path = root / "train" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    spec, memory = DatasetSpec(("a", "b"), ()), CheckMemory(tmp_path / "cache")
    for _ in range(2):
        dataset = load_dataset(root, spec, memory=memory)
        found = thumbnails(dataset.train.reports)
        assert (found == [cells(image) for image in images]).all()
