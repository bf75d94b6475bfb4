"""What both sides of a row are told, and what was made for both of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.subset import Subset

STEPS_PER_EPOCH = 100
"""Of the schedule that the timed steps are taken from."""


@dataclass(frozen=True, eq=False)
class Job(Subset):
    """One measurement.

    Attributes:
        networks: folder of `benchmarks.rows.shared.networks`.
        shared: folder of what else was made for both sides.
        folder: a side's own, empty.
        models: how many runs are blended.
        runs: folders of two finished runs whose probabilities are blended; empty = stand-ins.
    """

    networks: Path
    shared: Path
    folder: Path
    models: int = 2
    runs: tuple[Path, ...] = ()

    def start(self) -> dict[str, Tensor]:
        """Weights that a timed step begins with."""
        return load_file(self.shared / "start.safetensors")

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image (B, C, h, w), depth (B, h, w) and label (B, h, w) of a timed step."""
        parts = load_file(self.shared / "batch.safetensors")
        return parts["image"], parts["depth"], parts["label"]

    def network(self, number: int) -> Path:
        """What `benchmarks.engine_parts.experiment` is given for a shared network."""
        return self.networks / str(number)

    def store(self, model: int) -> Path:
        """The store of a run: float16 (N, C, h, w)."""
        return self.shared / f"prob{model}.npy"

    def stores(self) -> list[NDArray[np.float16]]:
        """All stores, mapped as a run keeps them."""
        return [np.load(self.store(model), mmap_mode="r") for model in range(self.models)]

    def labels(self) -> list[NDArray[np.uint8]]:
        """N labels (H, W) of all training frames, 255 = ignore."""
        return [pixels(sample.label) for sample in self.dataset.train.samples]


def pixels(path: Path | None) -> NDArray[Any]:
    """What Pillow decodes of one of a training frame's files, which has them all."""
    assert path is not None, "a training frame lacks a file"
    with Image.open(path) as image:
        return np.array(image)
