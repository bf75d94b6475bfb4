"""What the processes of one training leave to the first of them: to write."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from engine.rundir import RunDir
from engine.training.records import BestNote, Checkpoint, EpochLine


class NoFiles:
    """An `engine.training.background.Files` of a fold that another process writes."""

    def save_best(self, path: Path, weights: Mapping[str, Tensor], note: BestNote) -> None:
        """The first process does."""

    def write_metrics(self, path: Path, lines: Sequence[EpochLine]) -> None:
        """Likewise."""

    def write_curves(self, run: RunDir) -> None:
        """Likewise."""

    def save_last(self, path: Path, saved: Checkpoint) -> None:
        """Likewise."""

    def finish(self) -> None:
        """Nothing is on its way."""
