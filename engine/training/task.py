"""What is to be trained: one fold."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.config import Config
from engine.frames.index import Dataset
from engine.rundir import RunDir


@dataclass(frozen=True)
class FoldTask:
    """One fold to train: on which positions in `dataset.train.samples`, where to, as what."""

    config: Config
    dataset: Dataset
    run: RunDir
    fold: int
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    config_hash: str
    """What a checkpoint must have been made from to be continued."""
    later: int = 0
    """Folds that this call trains after it."""
    stop_after: int | None = None
    """Epochs after which this call leaves it as it is; its schedule is that of all."""

    @property
    def batch_size(self) -> int:
        """Samples a step; a fold smaller than a batch is one batch."""
        return min(self.config.training.batch_size, len(self.training))

    @property
    def epochs(self) -> int:
        """Those after which this call is done with it."""
        return min(self.config.training.epochs, self.stop_after or self.config.training.epochs)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches only: static shapes, and no batch statistics over a lone sample.

        Of all frames as many as of a fold's, each epoch others: the schedule is that of a fold.
        """
        frames, folds = len(self.training), self.config.data.folds
        if not self.config.holds_out:
            frames = max(self.batch_size, frames * (folds - 1) // folds)
        return frames // self.batch_size
