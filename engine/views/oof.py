"""Out-of-fold prediction: every training frame by the fold that never saw it.

Axes: B batch, T temperature, C class, h w stored pixels.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from engine.config import Config
from engine.data.folds import Folds
from engine.frames.index import Sample
from engine.runtime.device import DevicePolicy
from engine.runtime.progress import track
from engine.views.frame_batches import FrameBatch, frame_batches
from engine.views.networks import FoldNetwork
from engine.views.store import ProbStoreWriter, StoreLayout
from engine.views.tta import mean_probabilities


def store_hw(config: Config, samples: tuple[Sample, ...]) -> tuple[int, int]:
    """Half the base size; with frames at their own size, half the largest frame."""
    base_hw = config.inference.base_hw
    if base_hw is None:
        base_hw = max(s.hw[0] for s in samples), max(s.hw[1] for s in samples)
    return base_hw[0] // 2, base_hw[1] // 2


def oof_layout(config: Config, samples: tuple[Sample, ...], folds: Folds, key: str) -> StoreLayout:
    """Layout of the store of every training frame's probabilities; `key` is what made them."""
    return StoreLayout(
        stems=tuple(sample.stem for sample in samples),
        fold_of=folds.fold_of,
        classes=config.data.classes,
        hw=store_hw(config, samples),
        temperatures=config.inference.temperatures,
        key=key,
    )


def predict_fold(
    load: Callable[[], FoldNetwork],
    fold: int,
    weights: str,
    folds: Folds,
    samples: tuple[Sample, ...],
    config: Config,
    policy: DevicePolicy,
    writer: ProbStoreWriter,
) -> None:
    """Predict the validation frames of `fold` into the store and count them, resuming.

    The fold's state in the store's progress holds `done` (frames), `confusion` (T, C, C) at the
    labels' own resolution, and `elapsed_s`.

    Args:
        load: gives the fold's network; not called if the fold is already predicted.
        fold: number of the fold.
        weights: hash of its weights; what other weights predicted is predicted again.
        folds: the split.
        samples: every training sample of the dataset.
        config: the run's config.
        policy: device and precision.
        writer: the store in progress.
    """
    validation = folds.validation(fold)
    state = writer.state(fold, weights)
    done = state.get("done", 0)
    if done == len(validation):
        return
    network = load()
    temperatures, classes = config.inference.temperatures, len(config.data.classes)
    count_TCC = np.zeros((len(temperatures), classes, classes), np.int64)
    if state:
        count_TCC += np.array(state["confusion"], np.int64)
    before_s, start_s = state.get("elapsed_s", 0.0), time.monotonic()
    batches = frame_batches(
        [samples[i] for i in validation],
        config.inference.batch_size,
        policy.device,
        depth=config.model.input == "rgbd",
        label=True,
        workers=config.runtime.workers,
        start=done,
    )
    with track(f"fold {fold} out-of-fold", len(validation), done) as advance:
        for frames in batches:
            count_TCC += _predict_batch(network, frames, validation, config, policy, writer)
            done += len(frames)
            elapsed_s = before_s + time.monotonic() - start_s
            writer.commit(
                fold,
                {
                    "weights": weights,
                    "done": done,
                    "elapsed_s": round(elapsed_s, 3),
                    "confusion": count_TCC.tolist(),
                },
            )
            advance(len(frames))


@torch.inference_mode()
def _predict_batch(
    network: FoldNetwork,
    frames: FrameBatch,
    validation: NDArray[np.int64],
    config: Config,
    policy: DevicePolicy,
    writer: ProbStoreWriter,
) -> NDArray[np.int64]:
    temperatures = config.inference.temperatures
    prob_BTCHW = mean_probabilities(
        [network], frames, config.inference, temperatures, len(config.data.classes), policy
    )
    assert frames.label_BHW is not None
    counts = [
        policy.operations.probability_confusion(prob_BTCHW[:, t], frames.label_BHW)
        for t in range(len(temperatures))
    ]
    stored_BTChw = torch.stack(
        [
            F.interpolate(prob, size=writer.layout.hw, mode="bilinear", align_corners=False)
            for prob in prob_BTCHW
        ]
    )
    for offset, prob_TChw in enumerate(stored_BTChw.cpu().numpy()):
        writer.write(int(validation[frames.first + offset]), prob_TChw, network.fold)
    return torch.stack(counts).cpu().numpy()
