"""A fold's out-of-fold probabilities by every view, scored at every temperature and stored."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows.epoch import check_scores
from benchmarks.rows.job import Job, with_section
from benchmarks.rows.work import counting_flops, inference_flops
from benchmarks.sides import Prepared
from benchmarks.timing import Work
from engine.config import Config

if TYPE_CHECKING:
    from benchmarks.plain.recipe import Recipe
    from benchmarks.subset import Subset
    from engine.runtime.device import DevicePolicy
    from engine.views.networks import FoldNetwork

__all__ = ["check_scores", "configure", "engine_scores", "ours", "plain", "work"]

_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)


def configure(config: Config) -> Config:
    """Ten views and four temperatures, as the published experiments have."""
    return with_section(config, "inference", scales=_SCALES, flip=True, temperatures=_TEMPERATURES)


def ours(job: Job) -> Prepared:
    """The engine's prediction of fold 0 into its store."""
    from engine.rundir import RunDir
    from engine.runtime.device import choose_device
    from engine.views.networks import load_fold

    policy = choose_device(job.config.runtime)
    network = load_fold(job.config, RunDir(job.networks / "0"), 0, policy)
    folder = job.folder / "oof"

    def run() -> dict[str, Any]:
        return _facts(job, *engine_scores(job.subset, network, policy, folder))

    return Prepared(run, lambda: shutil.rmtree(folder, ignore_errors=True))


def engine_scores(
    subset: "Subset", network: "FoldNetwork", policy: "DevicePolicy", folder: Path
) -> tuple[list[float], int]:
    """Predict the frames of fold 0 into a store: mIoU by temperature, and how many pixels count."""
    import numpy as np

    from engine.views.oof import oof_layout, predict_fold
    from engine.views.store import ProbStoreWriter
    from kernels.confusion import mean_iou

    config, samples = subset.config, subset.dataset.train.samples
    weights = "benchmark"
    writer = ProbStoreWriter(folder, oof_layout(config, samples, subset.folds, weights))
    predict_fold(lambda: network, 0, weights, subset.folds, samples, config, policy, writer)
    count_TCC = np.array(writer.state(0, weights)["confusion"])
    writer.finish(config.inference.temperatures[0], weights)
    return [mean_iou(count_CC) for count_CC in count_TCC], int(count_TCC[0].sum())


def plain(job: Job, recipe: "Recipe") -> Prepared:
    """The recipe's prediction of fold 0 with the same network."""
    from benchmarks.plain.run import OutOfFold
    from benchmarks.rows.networks import trained_model

    model = trained_model(job, 0, recipe)

    def run() -> dict[str, Any]:
        predicted = OutOfFold(job.config, job.dataset, job.folder, recipe)
        predicted.add(model, job.folds.validation(0))
        pixels = int(predicted.count_TCC[0].sum())
        return _facts(job, list(predicted.finish().miou_T), pixels)

    return Prepared(run)


def work(job: Job) -> Work:
    """Passes, softmax, resizing and counting; images and labels read, probabilities written."""
    config, frames, hw = job.config, len(job.validation), job.validation[0].hw
    classes, temperatures = len(config.data.classes), len(config.inference.temperatures)
    base_hw = config.inference.base_hw or hw
    stored = temperatures * classes * (base_hw[0] // 2) * (base_hw[1] // 2) * 2
    flops = inference_flops(config, frames, hw, config.inference.scales, temperatures)
    flops += counting_flops(frames, hw, classes, temperatures)
    return Work(frames * (hw[0] * hw[1] * (3 + 1) + stored), flops, job.threads)


def _facts(job: Job, mious: list[float], pixels: int) -> dict[str, Any]:
    return {
        "frames": len(job.validation),
        "mious": mious,
        "miou": max(mious),
        "pixels": pixels,
    }
