"""The engine's side of every row, what both sides start from, and parts for other benchmarks.

What both start from is made once, outside of every timing. All that benchmarks ask of the engine's
insides is here; none of the recipe's libraries is imported.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.figures import Called, Facts
from benchmarks.rows.light import first_epoch, validating
from benchmarks.scene import smooth_probabilities
from benchmarks.sides import Prepared
from benchmarks.subset import STEPS_PER_EPOCH, Job, Subset, evenly, reseeded, with_section
from engine import blend, train
from engine.data.batch import Batch, Source
from engine.data.folds import Folds
from engine.data.inputs import InputSpec, draw, epoch_order
from engine.data.sources import make_source
from engine.experiment import Experiment
from engine.identity import file_hash
from engine.model.network import input_normalisation
from engine.report.summary import Summary
from engine.rundir import RunDir
from engine.runtime.device import set_up_device
from engine.training.loop import FoldTraining
from engine.training.phases import PhaseClock
from engine.training.step import EpochSums, learning_rate
from engine.training.tuning.check import whole_step
from engine.views.predictor import Predictor, open_predictor
from engine.views.store import ProbStoreWriter, oof_layout, open_store, predict_fold
from kernels.metrics import mean_iou

NETWORKS = 2
"""Trained from other seeds, as the runs of a blend are."""

_EPOCHS = 2
_PIXELS = 160 * 192 * 256
"""Of an epoch's crops: enough for maps with large regions of few classes, in about a minute."""

_KEY = "benchmark"
"""In the place of every hash: nothing that a benchmark leaves is continued by another."""


def data_cached(job: Job) -> Prepared:
    """The engine's source, its frames decoded by an earlier run."""
    return _epochs(experiment(job, job.folder))


def data_cold(job: Job) -> Prepared:
    """The engine's source on its first epoch: frames are decoded, kept and cropped."""
    run = experiment(job, job.folder)
    return first_epoch(job, lambda: _epochs(run), lambda: _remove(job.folder))


def train_step(job: Job) -> Prepared:
    """One step on a batch that is there: forward, loss, backward, update, average."""
    fold = begin(experiment(job, job.folder))
    fold.learner.network.load_state_dict(job.start())
    device, training = fold.policy.device, job.config.training
    image, depth, label = (part.to(device) for part in job.batch())
    image = image.contiguous(memory_format=torch.channels_last)
    batch = Batch(image, depth, label, np.arange(len(image)))
    clock, numbers = PhaseClock(device), count()
    clock.attach(fold.step)

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
    run = experiment(job, job.folder)

    def whole() -> Facts:
        train_fold(run)
        return Facts(len(job.dataset.train.samples))

    return Prepared(whole, lambda: _remove(run.dir.root))


def validation(job: Job) -> Prepared:
    """Validation of a trained network by one view."""
    predictor = load(experiment(job, job.network(0))).single_view()
    return validating(job, predictor.confusion, mean_iou)


def oof(job: Job) -> Prepared:
    """Probabilities of fold 0 by every view, scored at every temperature and stored."""
    predictor = load(experiment(job, job.network(0)))
    run = experiment(job, job.folder)

    def predict() -> Facts:
        mious, pixels = out_of_fold(run, predictor)
        rounded = job.config.int8
        return Facts(len(job.validation), mious=mious, pixels=pixels, rounded=rounded)

    return Prepared(predict, lambda: _remove(run.dir.root))


def chain(job: Job) -> Prepared:
    """`engine.train` twice, with other seeds, then `engine.blend`; the frame cache starts empty."""
    config = with_section(job.config, "runtime", cache=str(job.folder / "cache"))

    def whole() -> Facts:
        runs, out = [job.folder / "0", job.folder / "1"], RunDir(job.folder / "blend")
        for number, folder in enumerate(runs):
            train.train(reseeded(config, number), RunDir(folder), range(config.data.folds))
        blend.blend(blend.Options(runs, out.root))
        singles = tuple(Summary.read(RunDir(run).summary).oof.miou for run in runs)
        miou = Summary.read(out.summary).oof.miou
        return Facts(len(job.dataset.train.samples), mious=(miou,), singles=singles)

    return Prepared(whole, lambda: _remove(job.folder))


def batch(job: Job) -> None:
    """`start.safetensors`, weights of a new network, and `batch.safetensors`, one real batch."""
    run = experiment(job, job.shared)
    weights = begin(run).learner.network.state_dict()
    made = first_batch(run)
    parts = {"image": made.image_BCHW, "depth": made.depth_BHW, "label": made.label_BHW}
    job.shared.mkdir(parents=True, exist_ok=True)
    for name, tensors in (("start", weights), ("batch", parts)):
        whole = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
        save_file(whole, job.shared / f"{name}.safetensors")


def networks(job: Job) -> None:
    """Train `NETWORKS` folds for a moment, in run folders below `job.networks`."""
    crop_hw, batch_size = job.config.data.crop_hw, job.config.training.batch_size
    frames = max(batch_size, _PIXELS // (crop_hw[0] * crop_hw[1]))
    short = with_section(job.config, "training", epochs=_EPOCHS, validate_every=_EPOCHS)
    for number in range(NETWORKS):
        config = reseeded(short, number)
        run = experiment(replace(job, config=config), job.network(number))
        if not run.dir.best(0).exists():
            train_fold(run, evenly(job.folds.training(0).tolist(), frames))


def stores(job: Job) -> None:
    """`prob{m}.npy`, float16 (N, C, h, w): one for each of `job.models` runs, on all frames.

    The first two are those of `job.runs` or, without them, predictions of the two networks by one
    view, which agree on few pixels: the hardest case. The others are mixtures of these, each with
    its own smooth disturbance.
    """
    job.shared.mkdir(parents=True, exist_ok=True)
    if not job.runs:
        networks(job)
    predicted = [_stored(job, run) for run in job.runs]
    predicted = predicted or [_predicted(job, number) for number in range(NETWORKS)]
    for number in range(job.models):
        store = predicted[number] if number < NETWORKS else _disturbed(predicted, number)
        np.save(job.store(number), store)


def experiment(subset: Subset, folder: Path) -> Experiment:
    """The frames as the engine's experiment, its run folder and frame cache below `folder`."""
    config = with_section(subset.config, "runtime", cache=str(folder / "cache"))
    policy = set_up_device(config.runtime)
    return Experiment(config, RunDir(folder / "run"), subset.dataset, subset.folds, policy, _KEY)


def begin(run: Experiment) -> FoldTraining:
    """Fold 0 before its first step: learner and step."""
    return FoldTraining(run.task(0), run.policy)


def train_fold(run: Experiment, training: Sequence[int] | None = None) -> None:
    """Train fold 0, on other frames than the split's if they are named."""
    task = run.task(0)
    if training is not None:
        task = replace(task, training=np.array(training), validation=task.validation[:2])
    run.dir.fold(0).mkdir(parents=True, exist_ok=True)
    FoldTraining(task, run.policy).run()


def timed_steps(fold: FoldTraining, batch: Batch, steps: int) -> list[Called]:
    """Time a fold's first steps, all on one batch, each from one wait for the device to the next.

    Raises:
        RuntimeError: a loss or its gradient is not finite.
    """
    gpu = fold.policy.device.type == "cuda"
    wait = torch.cuda.synchronize if gpu else bool
    calls = []
    for number in range(steps):
        wait()
        start_s = time.perf_counter()
        whole_step(fold.step, batch, fold.config.training.lr, number)
        seconds = time.perf_counter() - start_s
        used = torch.cuda.max_memory_allocated() if gpu else 0
        calls.append(Called(seconds, Facts(len(batch.index)), used / 2**20))
    if int(fold.learner.sums.first_bad_step) >= 0:
        raise RuntimeError("the loss or its gradient is not finite")
    return calls


def epoch_batches(run: Experiment) -> Iterator[Batch]:
    """The whole batches of the first epoch, were all frames its own."""
    return _batches(run, _source(run), 0)


def first_batch(run: Experiment) -> Batch:
    """The batch that training would start with, were all frames its own."""
    # Not `resident`, which would decode every frame for one batch.
    decoding = replace(run, config=with_section(run.config, "runtime", source="torch"))
    return next(epoch_batches(decoding))


def load(run: Experiment) -> Predictor:
    """The trained network of fold 0, by all views."""
    if run.config.int8:
        run.quantise(0, file_hash(run.dir.best(0)))
    return open_predictor(run.config, run.dir, [0], run.policy)


def out_of_fold(run: Experiment, predictor: Predictor) -> tuple[tuple[float, ...], int]:
    """Predict fold 0 into the run's store: mIoU by temperature, and how many pixels count."""
    samples = run.dataset.train.samples
    writer = ProbStoreWriter(run.dir.oof, oof_layout(run.config, samples, run.folds, _KEY))
    count_TCC = np.array(predict_fold(lambda _: predictor, 0, _KEY, samples, writer).confusion)
    writer.finish(run.config.inference.temperatures[0], _KEY)
    return tuple(mean_iou(count_CC) for count_CC in count_TCC), int(count_TCC[0].sum())


def all_views(run: Experiment, fold: FoldTraining) -> Tensor:
    """(1, T, C, H, W) probabilities of the first frame by every view at every temperature."""
    predictor = replace(fold.predictor, inference=run.config.inference)
    _, prob_BTCHW = next(predictor.predict(run.dataset.train.samples[:1]))
    return prob_BTCHW


def _source(run: Experiment) -> Source:
    """Where an epoch's batches come from."""
    config, samples = run.config, run.dataset.train.samples
    spec = InputSpec.of(config, input_normalisation(config.model))
    return make_source(samples, config.data.crop_hw, spec, run.policy, config.runtime)


def _batches(run: Experiment, source: Source, epoch: int) -> Iterator[Batch]:
    """The whole batches of an epoch on all training frames."""
    split, seed = run.dataset.train, run.config.training.seed
    small = split.small_pixels
    hw_N2 = np.array([sample.hw for sample in split.samples], dtype=np.int64)
    size = min(run.config.training.batch_size, len(hw_N2))
    order_N = epoch_order(seed, epoch, np.arange(len(hw_N2)))
    drawn = partial(draw, run.config.data, seed=seed, epoch=epoch, hw=hw_N2, small_pixels=small)
    steps = range(0, len(hw_N2) - size + 1, size)
    return source.batches(drawn(index=order_N[first : first + size]) for first in steps)


def _epochs(run: Experiment) -> Prepared:
    source, epochs = _source(run), count()

    def consume() -> Facts:
        return Facts(sum(len(batch.index) for batch in _batches(run, source, next(epochs))))

    return Prepared(consume)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _stored(job: Job, run: Path) -> NDArray[np.float16]:
    """What a finished run predicted of the frames."""
    store = open_store(run / "oof")
    if store.manifest.classes != job.config.data.classes:
        raise ValueError(
            f"{run} has other classes: {list(store.manifest.classes)}; "
            f"use a run of the benchmark's: {list(job.config.data.classes)}"
        )
    position = {stem: n for n, stem in enumerate(store.manifest.stems)}
    missing = [s.stem for s in job.dataset.train.samples if s.stem not in position]
    if missing:
        raise ValueError(f"{run} does not hold frame {missing[0]}; use runs of the same dataset")
    chosen = [position[sample.stem] for sample in job.dataset.train.samples]
    return np.array(store.prob_NChw[chosen])


def _predicted(job: Job, number: int) -> NDArray[np.float16]:
    """Prediction of a network by one view, at half the base size, of all frames."""
    config = with_section(job.config, "inference", scales=[1.0], flip=False, temperatures=[1.0])
    everything = Folds("one", np.zeros_like(job.folds.fold_of), 0.0)
    trained = experiment(job, job.network(number))
    run = experiment(replace(job, config=config, folds=everything), job.shared / str(number))
    by_one_view = replace(load(trained), inference=config.inference)
    out_of_fold(run, by_one_view)
    return np.array(open_store(run.dir.oof).prob_NChw)


def _disturbed(predicted: list[NDArray[np.float16]], number: int) -> NDArray[np.float16]:
    frames, classes, height, width = predicted[0].shape
    share = number / (number + 3)
    mixed = share * predicted[0].astype(np.float32) + (1 - share) * predicted[1]
    # The noise is made at whole sixteenths, and cut to the maps' size.
    padded = (frames, classes, -(-height // 16) * 16, -(-width // 16) * 16)
    noise = smooth_probabilities(padded, seed=number).numpy()[..., :height, :width]
    return (0.7 * mixed + 0.3 * noise).astype(np.float16)
