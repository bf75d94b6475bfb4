"""Folds that do not start at a first step: stopped before, or with weights to take as they are."""

import logging

from engine.config import is_run
from engine.training.checkpoint import read_metrics
from engine.training.loop import FoldTraining
from engine.training.records import Checkpoint, EpochLine
from engine.training.step import Learner
from kernels.compiling import work_s

_log = logging.getLogger(__name__)

_OF_DEVICE = ("lr", "capturable", "fused", "foreach")
"""Settings of an optimiser that follow its device, where a fold may go on on another; the learning
rate, a tensor on a GPU, is set anew at every step."""


def restore(saved: Checkpoint, learner: Learner) -> None:
    """Copy the state into the living objects, which keep their device and memory format."""
    learner.network.load_state_dict(saved.content["network"])
    with learner.ema.whole():
        learner.ema.network.load_state_dict(saved.content["ema"])
    learner.sums.sums.copy_(saved.content["sums"])
    optimizer, state = learner.optimizer, saved.content["optimizer"]
    living = [
        {name: group[name] for name in _OF_DEVICE if name in group}
        for group in optimizer.param_groups
    ]
    # Before it loads, for they say on which device step counts are to be.
    groups = [was | own for was, own in zip(state["param_groups"], living, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for group, own in zip(optimizer.param_groups, living, strict=True):
        group.update(own)  # what loading copied: a recorded step reads this very tensor


def resume(fold: FoldTraining, saved: Checkpoint) -> None:
    """Bring a fold to where it was saved; a damaged line of its metrics is a ValueError."""
    restore(saved, fold.learner)
    fold.position = at = saved.position
    fold.metrics = read_metrics(fold.task.run.metrics(fold.task.fold), at.epoch)
    _log.info("fold %d continues at epoch %d, step %d", fold.task.fold, at.epoch + 1, at.step)


def adopt(fold: FoldTraining) -> None:
    """Make the starting weights the fold's, validated as after an epoch of training."""
    start_s, number = work_s(), fold.task.fold
    scores = fold.validate(0)
    spent_s = round(work_s() - start_s, 3)
    fold.close_epoch(EpochLine(epoch=0, **scores, train_s=0.0, validation_s=spent_s))
    weights = fold.config.model.of_fold(number).weights
    told = "fold %d: the weights of %s as they are, mIoU %.4f on its validation frames"
    if not is_run(weights):  # of a run it is told when it is opened
        told += "; whether they were trained on those frames cannot be told here"
    _log.warning(told, number, weights.rstrip("*"), scores["miou"])
