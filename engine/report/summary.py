"""`summary.json`: what a run or a blend reached."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.config import Config
from engine.rundir import Record, RunDir
from engine.selection.scores import FoldScore, OofScores, TemperatureChoice
from kernels.metrics import mean_iou

if TYPE_CHECKING:
    from engine.views.store import FoldState


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


def summarise_run(
    config: Config,
    run: RunDir,
    key: str,
    predicted: Mapping[int, "FoldState"],
    leakage: float,
    prepare_s: float,
) -> Summary:
    """The summary of a run from what training and the choice of the temperature left in its folder.

    Args:
        config: the run's.
        run: its folder.
        key: hash of everything that the results are made from.
        predicted: what out-of-fold prediction left of each fold.
        leakage: see `Summary`.
        prepare_s: seconds before the first fold.

    Raises:
        ValueError: a file is damaged.
    """
    # Not to show a finished run: it loads PyTorch.
    from engine.training.checkpoint import best_line, read_metrics

    choice, results = TemperatureChoice.read(run.temperature), {}
    for fold, state in predicted.items():
        # A fold that was not trained has one line too: the score of the weights it was given.
        lines = read_metrics(run.metrics(fold), max(config.training.epochs, 1))
        best = best_line(lines)
        assert best.miou is not None, "the last epoch is validated"
        results[fold] = FoldResult(
            state.counts()[choice.index],
            best.epoch,
            best.miou,
            sum(line.train_s for line in lines),
            sum(line.validation_s for line in lines),
            state.elapsed_s,
        )
    return summarise(key, config.data.classes, choice.best, results, leakage, prepare_s)


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
