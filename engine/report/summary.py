"""`summary.json`: what a run or a blend reached."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.rundir import Record
from engine.selection.scores import FoldScore, OofScores
from kernels.metrics import mean_iou


class Summary(Record):
    """`summary.json`."""

    key: str
    """Hash of everything that the run's or the blend's results are made from."""
    oof: OofScores
    folds: list[FoldScore]
    seconds: dict[str, float]
    """By stage; the last is "total"."""
    leakage: float
    """Share of validation frames with a neighbour among the fold's training frames."""
    peak_memory_mib: int = 0
    """Largest resident size of the process that wrote the summary; left out before."""


class FoldResult(NamedTuple):
    """What training and out-of-fold prediction left of a fold."""

    count_CC: NDArray[np.int64]
    """(C, C) confusion of its validation frames at the chosen temperature."""
    best_epoch: int
    """The epoch that its weights are from."""
    validation_miou: float
    """What that epoch's validation measured."""
    training_s: float
    validation_s: float
    oof_s: float

    @classmethod
    def read(
        cls, metrics: Path, epochs: int, count_CC: NDArray[np.int64], oof_s: float
    ) -> "FoldResult":
        """What `metrics.jsonl` tells of the training, and what out-of-fold prediction left.

        Raises:
            ValueError: a line of the file is damaged.
        """
        # Not to show a finished run: it loads PyTorch.
        from engine.training.checkpoint import best_line, read_metrics

        # A fold that was not trained has one line too: the score of the weights it was given.
        lines = read_metrics(metrics, max(epochs, 1))
        best = best_line(lines)
        assert best.miou is not None, "the last epoch is validated"
        training_s = sum(line.train_s for line in lines)
        validation_s = sum(line.validation_s for line in lines)
        return cls(count_CC, best.epoch, best.miou, training_s, validation_s, oof_s)


def summarise(
    key: str,
    classes: Sequence[str],
    temperature: float,
    results: Mapping[int, FoldResult],
    leakage: float,
    prepare_s: float,
) -> Summary:
    """The run's out-of-fold figures, without submission and atlas.

    Args:
        key: hash of everything that they are made from.
        classes: C class names.
        temperature: the chosen one.
        results: by fold.
        leakage: share of validation frames with a neighbour among the fold's training frames.
        prepare_s: seconds before the first fold.
    """
    counts = {fold: result.count_CC for fold, result in results.items()}
    return Summary(
        key=key,
        oof=OofScores.of_folds(counts, classes, temperature),
        folds=[
            FoldScore(
                fold=fold,
                miou=mean_iou(result.count_CC),
                best_epoch=result.best_epoch,
                validation_miou=result.validation_miou,
            )
            for fold, result in sorted(results.items())
        ],
        seconds={
            "prepare": prepare_s,
            "training": sum(result.training_s for result in results.values()),
            "validation": sum(result.validation_s for result in results.values()),
            "oof": sum(result.oof_s for result in results.values()),
        },
        leakage=leakage,
    )
