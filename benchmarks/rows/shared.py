"""What both sides of a row start from, made once and outside of every timing."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.rows.job import Job, with_section
from benchmarks.rows.shared_files import store_file
from benchmarks.scene import smooth_probabilities
from benchmarks.subset import evenly
from engine.data.augment import draw, epoch_order
from engine.data.sources import make_source
from engine.model.network import build_network, input_normalisation
from engine.rundir import RunDir
from engine.runtime.device import choose_device
from engine.training.loop import FoldTask, train_fold
from engine.views.frame_batches import frame_batches
from engine.views.networks import load_fold
from engine.views.store import open_store
from engine.views.tta import mean_probabilities

NETWORKS = 2
"""Trained from other seeds, as the runs of a blend are."""

_EPOCHS = 2
_PIXELS = 160 * 192 * 256
"""Of an epoch's crops: enough for maps with large regions of few classes, in about a minute."""


def batch(job: Job) -> None:
    """`start.safetensors`, weights of a new network, and `batch.safetensors`, one real batch."""
    config = job.config
    job.shared.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.training.seed)
    network = build_network(config.model, len(config.data.classes))
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(weights, job.shared / "start.safetensors")
    split = job.dataset.train
    source = make_source(
        "torch",
        split.samples,
        config.data.crop_hw,
        input_normalisation(config.model),
        config.model.in_channels,
        torch.device("cpu"),
        config.runtime.workers,
    )
    order = epoch_order(config.training.seed, 0, np.arange(len(split.samples)))
    draws = draw(
        config.data,
        seed=config.training.seed,
        epoch=0,
        index=order[: config.training.batch_size],
        hw=np.array([sample.hw for sample in split.samples]),
        small_pixels=split.small_pixels,
    )
    (made,) = source.batches([draws])
    parts = {"image": made.image_BCHW, "depth": made.depth_BHW, "label": made.label_BHW}
    save_file(
        {key: part.contiguous() for key, part in parts.items()}, job.shared / "batch.safetensors"
    )


def networks(job: Job) -> None:
    """Train `NETWORKS` folds for a moment, in run folders below `job.networks`."""
    crop_hw, batch_size = job.config.data.crop_hw, job.config.training.batch_size
    frames = max(batch_size, _PIXELS // (crop_hw[0] * crop_hw[1]))
    chosen = np.array(evenly(job.folds.training(0).tolist(), frames))
    for number in range(NETWORKS):
        run = RunDir(job.networks / str(number))
        if run.best(0).exists():
            continue
        seed = job.config.training.seed + number
        config = with_section(
            job.config, "training", seed=seed, epochs=_EPOCHS, validate_every=_EPOCHS
        )
        task = FoldTask(
            config=config,
            dataset=job.dataset,
            run=run,
            fold=0,
            training=chosen,
            validation=job.folds.validation(0)[:2],
            config_hash="shared",
        )
        train_fold(task, choose_device(config.runtime))


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
        np.save(store_file(job, number), store)


def _stored(job: Job, run: Path) -> NDArray[np.float16]:
    """What a finished run predicted of the frames."""
    store = open_store(RunDir(run).oof)
    if tuple(store.manifest["classes"]) != job.config.data.classes:
        raise ValueError(
            f"{run} has other classes: {store.manifest['classes']}; use a run of the benchmark's: "
            f"{list(job.config.data.classes)}"
        )
    position = {stem: n for n, stem in enumerate(store.stems)}
    missing = [s.stem for s in job.dataset.train.samples if s.stem not in position]
    if missing:
        raise ValueError(f"{run} does not hold frame {missing[0]}; use runs of the same dataset")
    chosen = [position[sample.stem] for sample in job.dataset.train.samples]
    return np.array(store.prob_NChw[chosen])


@torch.inference_mode()
def _predicted(job: Job, number: int) -> NDArray[np.float16]:
    """Prediction of a network by one view, at half the base size."""
    config = with_section(job.config, "inference", scales=[1.0], flip=False)
    policy = choose_device(config.runtime)
    network = load_fold(config, RunDir(job.networks / str(number)), 0, policy)
    maps = []
    for frames in frame_batches(
        job.dataset.train.samples,
        config.inference.batch_size,
        policy.device,
        depth=config.model.input == "rgbd",
        label=False,
        workers=config.runtime.workers,
    ):
        prob_BTCHW = mean_probabilities(
            [network], frames, config.inference, (1.0,), len(config.data.classes), policy
        )
        half = torch.nn.functional.interpolate(prob_BTCHW[:, 0], scale_factor=0.5, mode="bilinear")
        maps.append(half.half().cpu().numpy())
    return np.concatenate(maps)


def _disturbed(predicted: list[NDArray[np.float16]], number: int) -> NDArray[np.float16]:
    frames, classes, height, width = predicted[0].shape
    share = number / (number + 3)
    mixed = share * predicted[0].astype(np.float32) + (1 - share) * predicted[1]
    # The noise is made at whole sixteenths, and cut to the maps' size.
    padded = (frames, classes, -(-height // 16) * 16, -(-width // 16) * 16)
    noise = smooth_probabilities(padded, seed=number).numpy()[..., :height, :width]
    return (0.7 * mixed + 0.3 * noise).astype(np.float16)
