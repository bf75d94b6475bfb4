"""What is to be trained: one fold."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.config import Config
from engine.frames.index import Dataset
from engine.rundir import RunDir

if TYPE_CHECKING:
    # Not to train without a teacher.
    from engine.data.unlabelled import Unlabelled


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
    unlabelled: "Unlabelled | None" = None
    """What its teacher labelled; a task with a teacher that lacks it may be measured only."""

    @property
    def labelled(self) -> int:
        """Labelled samples a step; of a fold smaller than a batch all."""
        config = self.config
        return min(config.training.batch_size - config.unlabelled, len(self.training))

    @property
    def batch_size(self) -> int:
        """Samples a step, those that a teacher labels among them."""
        return self.labelled + self.config.unlabelled

    @property
    def epochs(self) -> int:
        """Those after which this call is done with it."""
        return min(self.config.training.epochs, self.stop_after or self.config.training.epochs)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches only: static shapes, and no batch statistics over a lone sample.

        An epoch visits the labelled frames: where a teacher labels a part of each batch, there are
        more steps. Of all frames as many as of a fold's, each epoch others: the schedule is that of
        a fold.
        """
        frames, folds = len(self.training), self.config.data.folds
        if not self.config.holds_out:
            frames = max(self.labelled, frames * (folds - 1) // folds)
        return frames // self.labelled

    def stems(self, index: Iterable[int]) -> list[str]:
        """Of samples of its batches; behind the labelled frames those that a teacher labels."""
        train, count = self.dataset.train.samples, len(self.dataset.train.samples)
        others = self.unlabelled.frames if self.unlabelled is not None else ()
        return [train[i].stem if i < count else others[i - count].stem for i in index]
