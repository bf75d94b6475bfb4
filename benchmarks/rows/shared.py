"""What both sides of a row start from, made once and outside of every timing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.rows import ours
from benchmarks.scene import smooth_probabilities
from benchmarks.subset import Job, evenly, reseeded, with_section
from engine.data.folds import Folds
from engine.views.store import open_store

NETWORKS = 2
"""Trained from other seeds, as the runs of a blend are."""

_EPOCHS = 2
_PIXELS = 160 * 192 * 256
"""Of an epoch's crops: enough for maps with large regions of few classes, in about a minute."""


def batch(job: Job) -> None:
    """`start.safetensors`, weights of a new network, and `batch.safetensors`, one real batch."""
    run = ours.experiment(job, job.shared)
    weights = ours.begin(run).learner.network.state_dict()
    made = ours.first_batch(run)
    parts = {"image": made.image_BCHW, "depth": made.depth_BHW, "label": made.label_BHW}
    job.shared.mkdir(parents=True, exist_ok=True)
    for name, tensors in (("start", weights), ("batch", parts)):
        whole = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
        save_file(whole, job.shared / f"{name}.safetensors")


def networks(job: Job) -> None:
    """Train `NETWORKS` folds for a moment, in run folders below `job.networks`."""
    crop_hw, batch_size = job.config.data.crop_hw, job.config.training.batch_size
    frames = max(batch_size, _PIXELS // (crop_hw[0] * crop_hw[1]))
    for number in range(NETWORKS):
        config = with_section(
            reseeded(job.config, number), "training", epochs=_EPOCHS, validate_every=_EPOCHS
        )
        run = ours.experiment(replace(job, config=config), job.network(number))
        if not run.dir.best(0).exists():
            ours.train_fold(run, evenly(job.folds.training(0).tolist(), frames))


def stores(job: Job) -> None:
    """`prob{m}.npy`, float16 (N, C, h, w): one for each of `job.models` runs, on all frames.

    The first two are those of `job.runs` or, without them, predictions of the two networks by one
    view, which agree on few pixels: the hardest case. The others are mixtures of these, each with
    its own smooth disturbance.
    """
    job.shared.mkdir(parents=True, exist_ok=True)
    if job.runs:
        predicted = [_stored(job, run) for run in job.runs]
    else:
        networks(job)
        predicted = [_predicted(job, number) for number in range(NETWORKS)]
    for number in range(job.models):
        store = predicted[number] if number < NETWORKS else _disturbed(predicted, number)
        np.save(job.store(number), store)


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
    trained = ours.experiment(job, job.network(number))
    run = ours.experiment(replace(job, config=config, folds=everything), job.shared / str(number))
    by_one_view = replace(ours.load(trained), inference=config.inference)
    ours.out_of_fold(run, by_one_view)
    return np.array(open_store(run.dir.oof).prob_NChw)


def _disturbed(predicted: list[NDArray[np.float16]], number: int) -> NDArray[np.float16]:
    frames, classes, height, width = predicted[0].shape
    share = number / (number + 3)
    mixed = share * predicted[0].astype(np.float32) + (1 - share) * predicted[1]
    # The noise is made at whole sixteenths, and cut to the maps' size.
    padded = (frames, classes, -(-height // 16) * 16, -(-width // 16) * 16)
    noise = smooth_probabilities(padded, seed=number).numpy()[..., :height, :width]
    return (0.7 * mixed + 0.3 * noise).astype(np.float16)
