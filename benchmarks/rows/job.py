"""What both sides of a row are told."""

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.subset import Subset
from engine.config import Config
from engine.data.folds import Folds
from engine.frames.index import Dataset, Sample


@dataclass(frozen=True, eq=False)
class Job:
    """One measurement.

    Attributes:
        subset: config, frames and folds, the same for both sides.
        networks: folder of `benchmarks.rows.shared.networks`.
        shared: folder of what else was made for both sides.
        folder: a side's own, empty.
        models: how many runs are blended.
        runs: folders of two finished runs whose probabilities are blended; empty = stand-ins.
    """

    subset: Subset
    networks: Path
    shared: Path
    folder: Path
    models: int = 2
    runs: tuple[Path, ...] = ()

    @property
    def config(self) -> Config:
        """The experiment."""
        return self.subset.config

    @property
    def dataset(self) -> Dataset:
        """The frames."""
        return self.subset.dataset

    @property
    def folds(self) -> Folds:
        """The split of the training frames."""
        return self.subset.folds

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


def with_section(config: Config, section: str, **changes: object) -> Config:
    """The config with some fields of one section changed, and checked again."""
    fields = {**getattr(config, section).model_dump(), **changes}
    return Config.model_validate({**config.model_dump(), section: fields})
