"""Some frames of a dataset as a dataset of its own, and what was made of them for both sides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from engine.config import ROOMS, Config
from engine.data.folds import Folds, make_folds
from engine.frames.index import Dataset, DatasetError, Fault, Sample

STEPS_PER_EPOCH = 100
"""Of the schedule that the timed steps are taken from."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Subset:
    """An experiment on some of its frames.

    Attributes:
        config: with `data.root` at the folder of links.
        dataset: the checked frames.
        folds: the split of the training frames.
    """

    config: Config
    dataset: Dataset
    folds: Folds

    def configured(self, config: Config) -> Self:
        """The same frames under another config, split as it says."""
        config = with_section(config, "data", root=self.config.data.root)
        config, folds = _split(self.dataset, config)
        return replace(self, config=config, folds=folds)

    @property
    def training(self) -> list[Sample]:
        """Frames that fold 0 trains on."""
        return [self.dataset.train.samples[i] for i in self.folds.training(0)]

    @property
    def validation(self) -> list[Sample]:
        """Frames that fold 0 validates."""
        return [self.dataset.train.samples[i] for i in self.folds.validation(0)]

    @property
    def threads(self) -> int:
        """PyTorch's threads on either side."""
        return self.config.runtime.threads or torch.get_num_threads()


@dataclass(frozen=True, eq=False)
class Job(Subset):
    """One measurement.

    Attributes:
        networks: folder of `benchmarks.rows.ours.networks`.
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
        """What `benchmarks.rows.ours.experiment` is given for a shared network."""
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


def open_subset(config: Config, frames: int, folder: Path) -> Subset:
    """Link `frames` training frames, evenly spread, and their share of the test frames.

    Args:
        config: the experiment; `data.root` "rooms" is rendered first, as `engine.train` does.
        frames: how many; more than there are means all.
        folder: new folder of the links.

    Raises:
        DatasetError: the dataset has faults.
        ValueError: the frames are too few for the folds.
    """
    # Not above: every side imports this module, and what a side needs is to be counted as its own.
    from engine.data.checked import read_dataset

    root = Path(config.data.root)
    if config.data.root != ROOMS and not root.is_dir():
        expected = "a folder with train/image and train/label; give --data.root"
        raise DatasetError(root, [Fault(str(root), "no such folder", expected)])
    whole = read_dataset(config)
    train, test = whole.train.samples, whole.test.samples
    chosen = evenly(train, frames)
    chosen_test = evenly(test, round(len(test) * len(chosen) / len(train)))
    for split, samples in (("train", chosen), ("test", chosen_test)):
        for kind, file in (item for sample in samples for item in sample.present.items()):
            link = folder / split / kind / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    scenes = [f"{s.stem},{s.scene}\n" for s in (*chosen, *chosen_test) if s.scene is not None]
    if scenes:
        (folder / "scenes.csv").write_text("".join(["stem,scene\n", *scenes]), encoding="utf-8")
    config = with_section(config, "data", root=str(folder))
    dataset = read_dataset(config)
    config, folds = _split(dataset, config)
    return Subset(config, dataset, folds)


def evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """`count` items spread evenly over the sequence, in order; all of them if there are fewer."""
    count = min(count, len(items))
    return [items[position * len(items) // count] for position in range(count)]


def with_section(config: Config, section: str, **changes: object) -> Config:
    """The config with some fields of one section changed, and checked again."""
    fields = {**getattr(config, section).model_dump(), **changes}
    return Config.model_validate({**config.model_dump(), section: fields})


def reseeded(config: Config, number: int) -> Config:
    """The config with a seed so much higher."""
    return with_section(config, "training", seed=config.training.seed + number)


def pixels(path: Path | None) -> NDArray[Any]:
    """What Pillow decodes of one of a training frame's files, which has them all."""
    assert path is not None, "a training frame lacks a file"
    with Image.open(path) as image:
        return np.array(image)


def _split(dataset: Dataset, config: Config) -> tuple[Config, Folds]:
    """The experiment's folds, of fewer blocks where the frames do not fill as many."""
    data, samples = config.data, dataset.train.samples
    blocks = max(1, min(data.blocks_per_fold, len(samples) // data.folds))
    config = with_section(config, "data", blocks_per_fold=blocks)
    return config, make_folds(samples, data.fold_kind, data.folds, data.fold_seed, blocks)
