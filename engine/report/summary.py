"""`summary.json`: what a run or a blend reached."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, JsonValue

from engine.config import Config
from engine.data.leakage import ContentLeakage
from engine.epochs import last_epoch
from engine.mistakes import ConfigError
from engine.report.zoom_gap import ZoomGap
from engine.rundir import NOT_MEASURED, Record, RunDir
from engine.selection.records import (
    FoldScore,
    MemberScore,
    OofScores,
    SubmissionScores,
    TemperatureChoice,
)
from engine.selection.scores import score_folds
from kernels.metrics import mean_iou

if TYPE_CHECKING:
    from engine.views.records import FoldState


class Summary(Record):
    """`summary.json`."""

    key: str
    """Hash of everything that the run's or the blend's results are made from."""
    oof_scores: OofScores | None = Field(None, alias="oof")
    """Left out where no frame was held out; see `oof`."""
    folds: list[FoldScore]
    seconds: dict[str, float]
    """By stage; the last is "total"."""
    leakage: float
    """Share of validation frames with a neighbour among the fold's training frames."""
    zoom_gap: ZoomGap | None = None
    """Left out where training and inference see frames in one zoom."""
    leakage_measured: bool = True
    """Whether the names have numbers in a row; left out where they have."""
    leakage_content: ContentLeakage | None = None
    """The same by what the frames show; left out before, and by blends."""
    peak_memory_mib: int = 0
    """Largest resident size of the process that wrote the summary; left out before."""
    test: SubmissionScores | None = None
    """Of the submission; left out where no test frame has labels."""

    @property
    def oof(self) -> OofScores:
        """What the out-of-fold predictions reach; a ConfigError where there are none."""
        if self.oof_scores is None:
            raise ConfigError(NOT_MEASURED)
        return self.oof_scores

    def to_json(self) -> dict[str, JsonValue]:
        """The record as JSON holds it."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)


def networks_of(fold: FoldScore) -> Sequence[FoldScore | MemberScore]:
    """What says of each of a fold's networks when it was best and when it ended."""
    return fold.members or [fold]


def summarise(
    config: Config,
    run: RunDir,
    key: str,
    predicted: Mapping[int, "FoldState"],
    leakage: float,
    prepare_s: float,
) -> Summary:
    """A run's out-of-fold figures, without submission and atlas.

    Args:
        config: the run's.
        run: its folder, whose metrics and temperature are read.
        key: hash of everything that the results are made from.
        predicted: what out-of-fold prediction left of each fold.
        leakage: see `Summary`.
        prepare_s: seconds before the first fold.

    Raises:
        ValueError: a file is damaged.
    """
    # Not to show a finished run: it loads PyTorch.
    from engine.training.checkpoint import read_metrics

    choice, counts, folds = TemperatureChoice.read(run.temperature), {}, []
    training_s, validation_s = [], []
    for fold, state in sorted(predicted.items()):
        members = []
        for network in config.members(fold):
            # One that was not trained has one line too: the score of the weights it was given.
            last = last_epoch(run, network, config.training)
            lines = read_metrics(run.metrics(network), max(last, 1))
            validated = [line for line in lines if line.miou is not None]
            # The first of the highest.
            best = max(validated, key=lambda line: line.miou or 0.0)
            one = MemberScore(network=network, best_epoch=best.epoch, validation_miou=best.miou)
            if last < config.training.epochs:
                one = one.model_copy(update={"stopped_after": last})
            members.append(one)
            training_s.append(sum(line.train_s for line in lines))
            validation_s.append(sum(line.validation_s for line in lines))
        counts[fold] = np.array(state.confusion[choice.index])
        lone = members[0].model_dump(exclude_unset=True, exclude={"network"})
        told = {"members": members} if len(members) > 1 else lone
        folds.append(FoldScore(fold=fold, miou=mean_iou(counts[fold]), **told))
    return Summary(
        key=key,
        oof=score_folds(counts, config.data.classes, choice.best),
        folds=folds,
        seconds={
            **_seconds_before(config, run, prepare_s),
            "training": sum(training_s),
            "validation": sum(validation_s),
            "oof": sum(state.elapsed_s for state in predicted.values()),
        },
        leakage=leakage,
    )


def summarise_unscored(config: Config, run: RunDir, key: str, prepare_s: float) -> Summary:
    """Of a run that holds no frame out: seconds, and no score; arguments as of `summarise`."""
    from engine.training.checkpoint import read_metrics

    epochs, networks = config.training.epochs, range(config.networks)
    lines = [line for k in networks for line in read_metrics(run.metrics(k), epochs)]
    seconds = _seconds_before(config, run, prepare_s)
    seconds["training"] = sum(line.train_s for line in lines)
    return Summary(key=key, folds=[], seconds=seconds, leakage=0.0, leakage_measured=False)


def _seconds_before(config: Config, run: RunDir, prepare_s: float) -> dict[str, float]:
    """Of the stages before training; "labelling" where a teacher made labels."""
    if not config.training.teacher:
        return {"prepare": prepare_s}
    from engine.training.pseudo import labelling_s

    return {"prepare": prepare_s, "labelling": labelling_s(run, range(config.networks))}
