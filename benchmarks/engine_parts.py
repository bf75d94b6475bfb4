"""The engine's parts as benchmarks use them: what rows and commands ask of its insides is here."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.subset import Subset, with_section
from engine.data.augment import draw, epoch_order
from engine.data.inputs import InputSpec
from engine.data.sources import Batch, Source, make_source
from engine.experiment import Experiment
from engine.model.network import input_normalisation
from engine.rundir import RunDir
from engine.runtime.device import set_up_device
from engine.training import loop
from engine.views.predictor import Predictor, open_predictor
from engine.views.store import ProbStoreWriter, oof_layout, predict_fold
from kernels.metrics import mean_iou

_KEY = "benchmark"
"""In the place of every hash: nothing that a benchmark leaves is continued by another."""


def experiment(subset: Subset, folder: Path) -> Experiment:
    """The frames as the engine's experiment, its run folder and frame cache below `folder`."""
    config = with_section(subset.config, "runtime", cache=str(folder / "cache"))
    policy = set_up_device(config.runtime)
    return Experiment(config, RunDir(folder / "run"), subset.dataset, subset.folds, policy, _KEY)


def train(run: Experiment, training: Sequence[int] | None = None) -> None:
    """Train fold 0, on other frames than the split's if they are named."""
    task = run.task(0)
    if training is not None:
        task = replace(task, training=np.array(training), validation=task.validation[:2])
    run.dir.fold(0).mkdir(parents=True, exist_ok=True)
    loop.train_fold(task, run.policy)


def begin(run: Experiment) -> loop.FoldTraining:
    """Fold 0 before its first step: learner and step."""
    return loop.FoldTraining(run.task(0), run.policy)


def open_source(run: Experiment) -> Source:
    """Where an epoch's batches come from."""
    config, samples = run.config, run.dataset.train.samples
    spec = InputSpec.of(config.model, input_normalisation(config.model))
    return make_source(samples, config.data.crop_hw, spec, run.policy, config.runtime)


def batches(run: Experiment, source: Source, epoch: int) -> Iterator[Batch]:
    """The whole batches of an epoch on all training frames."""
    split, seed = run.dataset.train, run.config.training.seed
    hw_N2 = np.array([sample.hw for sample in split.samples], dtype=np.int64)
    size = min(run.config.training.batch_size, len(hw_N2))
    order_N = epoch_order(seed, epoch, np.arange(len(hw_N2)))
    draws = (
        draw(
            run.config.data,
            seed=seed,
            epoch=epoch,
            index=order_N[first : first + size],
            hw=hw_N2,
            small_pixels=split.small_pixels,
        )
        for first in range(0, len(hw_N2) - size + 1, size)
    )
    return source.batches(draws)


def first_batch(run: Experiment) -> Batch:
    """The batch that training would start with, were all frames its own."""
    # Not `resident`, which would decode every frame for one batch.
    decoding = replace(run, config=with_section(run.config, "runtime", source="torch"))
    return next(iter(batches(decoding, open_source(decoding), 0)))


def load(run: Experiment) -> Predictor:
    """The trained network of fold 0, by all views."""
    return open_predictor(run.config, run.dir, [0], run.policy)


def out_of_fold(run: Experiment, predictor: Predictor) -> tuple[tuple[float, ...], int]:
    """Predict fold 0 into the run's store: mIoU by temperature, and how many pixels count."""
    samples = run.dataset.train.samples
    writer = ProbStoreWriter(run.dir.oof, oof_layout(run.config, samples, run.folds, _KEY))
    count_TCC = predict_fold(lambda: predictor, 0, _KEY, samples, writer).counts()
    writer.finish(run.config.inference.temperatures[0], _KEY)
    return tuple(mean_iou(count_CC) for count_CC in count_TCC), int(count_TCC[0].sum())


def all_views(run: Experiment, fold: loop.FoldTraining) -> Tensor:
    """(1, T, C, H, W) probabilities of the first frame by every view at every temperature."""
    predictor = replace(fold.predictor, inference=run.config.inference)
    _, prob_BTCHW = next(predictor.predict(run.dataset.train.samples[:1]))
    return prob_BTCHW
