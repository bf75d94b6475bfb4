"""The engine's side of every row; none of the recipe's libraries is imported here."""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch

from benchmarks import engine_parts
from benchmarks.figures import Facts
from benchmarks.rows import decoding
from benchmarks.rows.job import STEPS_PER_EPOCH, Job
from benchmarks.sides import Prepared
from benchmarks.subset import with_section
from engine import blend, train
from engine.data.sources import Batch, Source
from engine.report.summary import Summary
from engine.rundir import RunDir
from engine.training.phases import PhaseClock
from engine.training.step import EpochSums, learning_rate
from kernels.metrics import mean_iou


def data_cached(job: Job) -> Prepared:
    """The engine's source, its frames decoded by an earlier run."""
    run = engine_parts.experiment(job, job.folder)
    source, epochs = engine_parts.open_source(run), count()
    return Prepared(lambda: _consumed(engine_parts.batches(run, source, next(epochs))))


def data_cold(job: Job) -> Prepared:
    """The engine's source on its first epoch: frames are decoded, kept and cropped."""
    run = engine_parts.experiment(job, job.folder)
    living: list[Source] = []

    def reset() -> None:
        # The mapping of the last call ends here, outside of the timing.
        living.clear()
        _remove(job.folder)
        decoding.forget_pages(job)

    def first_epoch() -> Facts:
        living.append(engine_parts.open_source(run))
        return _consumed(engine_parts.batches(run, living[0], 0))

    return Prepared(first_epoch, reset)


def train_step(job: Job) -> Prepared:
    """One step on a batch that is there: forward, loss, backward, update, average."""
    fold = engine_parts.begin(engine_parts.experiment(job, job.folder))
    fold.learner.network.load_state_dict(job.start())
    device, training = fold.policy.device, job.config.training
    image, depth, label = (part.to(device) for part in job.batch())
    image = image.contiguous(memory_format=torch.channels_last)
    batch = Batch(image, depth, label, np.arange(len(image)))
    clock, numbers = PhaseClock(device), count()
    fold.step.clock = clock

    def step() -> Facts:
        clock.start()
        fold.learner.sums = EpochSums(device)
        rate = learning_rate(training, 0, STEPS_PER_EPOCH)
        fold.step(batch, rate, 0, next(numbers))
        loss = fold.learner.sums.means().loss
        clock.mark("other")
        return Facts(len(image), loss=loss, phases=clock.seconds)

    return Prepared(step)


def epoch(job: Job) -> Prepared:
    """Fold 0 from starting weights to the file of its best epoch; one epoch, validated."""
    run = engine_parts.experiment(job, job.folder)

    def train_fold() -> Facts:
        engine_parts.train(run)
        return Facts(len(job.dataset.train.samples))

    return Prepared(train_fold, lambda: _remove(run.dir.root))


def validation(job: Job) -> Prepared:
    """Validation of a trained network by one view."""
    run = engine_parts.experiment(job, job.network(0))
    predictor = engine_parts.load(run).single_view()

    def validate() -> Facts:
        count_CC = predictor.confusion(job.validation)
        mious = (mean_iou(count_CC),)
        return Facts(len(job.validation), mious=mious, pixels=int(count_CC.sum()))

    return Prepared(validate)


def oof(job: Job) -> Prepared:
    """Probabilities of fold 0 by every view, scored at every temperature and stored."""
    predictor = engine_parts.load(engine_parts.experiment(job, job.network(0)))
    run = engine_parts.experiment(job, job.folder)

    def predict() -> Facts:
        mious, pixels = engine_parts.out_of_fold(run, predictor)
        return Facts(len(job.validation), mious=mious, pixels=pixels)

    return Prepared(predict, lambda: _remove(run.dir.root))


def chain(job: Job) -> Prepared:
    """`engine.train` twice, with other seeds, then `engine.blend`; the frame cache starts empty."""
    config = with_section(job.config, "runtime", cache=str(job.folder / "cache"))

    def whole() -> Facts:
        runs, out = [job.folder / "0", job.folder / "1"], RunDir(job.folder / "blend")
        for number, folder in enumerate(runs):
            seeded = with_section(config, "training", seed=config.training.seed + number)
            train.train(seeded, RunDir(folder), range(config.data.folds))
        blend.blend(blend.Options(runs, out.root))
        singles = tuple(Summary.read(RunDir(run).summary).oof.miou for run in runs)
        miou = Summary.read(out.summary).oof.miou
        return Facts(len(job.dataset.train.samples), mious=(miou,), singles=singles)

    return Prepared(whole, lambda: _remove(job.folder))


def _consumed(batches: Iterator[Batch]) -> Facts:
    return Facts(sum(len(batch.index) for batch in batches))


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
