"""The recipe from frames to a submission, and two of its runs to a blended one."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.plain.data import read_label
from benchmarks.plain.inference import Predictor, resized, winners
from benchmarks.plain.model import DepthFpn, to_device
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.selection import confusion, grid_weights, mean_iou
from benchmarks.plain.training import train_fold
from engine.config import Config
from engine.data.folds import Folds
from engine.frames.index import Dataset, Sample


@dataclass(frozen=True)
class PlainRun:
    """What a run left: `best{fold}.pt` and `prob.npy` in its folder, and what was chosen."""

    config: Config
    folder: Path
    temperature: float
    miou_T: tuple[float, ...]
    """OOF mIoU by temperature."""


def run(config: Config, dataset: Dataset, folds: Folds, folder: Path, recipe: Recipe) -> PlainRun:
    """Train every fold, predict out-of-fold, choose the temperature, write a submission."""
    samples = dataset.train.samples
    for fold in range(folds.count):
        training = [samples[i] for i in folds.training(fold)]
        validation = [samples[i] for i in folds.validation(fold)]
        train_fold(config, training, validation, fold, folder / f"best{fold}.pt", recipe)
    predicted = OutOfFold(config, dataset, folder)
    for fold in range(folds.count):
        predictor = load_best(config, folder / f"best{fold}.pt", recipe)
        predicted.add(predictor, folds.validation(fold))
    finished = predicted.finish()
    write_submission([(finished, 1.0)], dataset.test.samples, folder / "submission.npy", recipe)
    return finished


class OutOfFold:
    """Every training frame by the fold that never saw it, at every temperature."""

    def __init__(self, config: Config, dataset: Dataset, folder: Path) -> None:
        self.config, self.folder, self.samples = config, folder, dataset.train.samples
        classes, temperatures = len(config.data.classes), config.inference.temperatures
        base_hw = config.inference.base_hw or np.max([s.hw for s in self.samples], axis=0)
        self.half_hw = int(base_hw[0]) // 2, int(base_hw[1]) // 2
        self.count_TCC = np.zeros((len(temperatures), classes, classes), np.int64)
        folder.mkdir(parents=True, exist_ok=True)
        self.files_T = [folder / f"prob_t{temperature:g}.npy" for temperature in temperatures]
        shape = (len(self.samples), classes, *self.half_hw)
        self.stores_T = [
            np.lib.format.open_memmap(file, "w+", np.float16, shape) for file in self.files_T
        ]

    def add(self, predictor: Predictor, validation: NDArray[np.int64]) -> None:
        """Predict the frames of a fold."""
        predicted = predictor.predict_fold([self.samples[i] for i in validation])
        classes = len(self.config.data.classes)
        for i, (prob_THWC, label_HW) in zip(validation, predicted, strict=True):
            for t, prob_HWC in enumerate(prob_THWC):
                mask_HW = winners(prob_HWC, label_HW.shape)
                self.count_TCC[t] += confusion(mask_HW, label_HW, classes)
                self.stores_T[t][i] = resized(prob_HWC, self.half_hw).transpose(2, 0, 1)

    def finish(self) -> PlainRun:
        """Choose the temperature and keep its store."""
        miou_T = [mean_iou(count_CC) for count_CC in self.count_TCC]
        best = int(np.argmax(miou_T))
        for store in self.stores_T:
            store.flush()
        self.files_T[best].rename(self.folder / "prob.npy")
        for file in self.files_T:
            file.unlink(missing_ok=True)
        temperature = self.config.inference.temperatures[best]
        return PlainRun(self.config, self.folder, temperature, tuple(miou_T))


def blend(
    runs: Sequence[PlainRun], dataset: Dataset, file: Path, recipe: Recipe
) -> tuple[Any, float]:
    """The best of 101 weights of two runs, and the submission of their blend.

    Returns:
        The two weights and the blend's OOF mIoU.
    """
    stores_M = [np.load(run.folder / "prob.npy", mmap_mode="r") for run in runs]
    labels_N = [read_label(sample) for sample in dataset.train.samples]
    weight_M, miou = grid_weights(stores_M, labels_N)
    weighted = list(zip(runs, weight_M.tolist(), strict=True))
    write_submission(weighted, dataset.test.samples, file, recipe)
    return weight_M, miou


def write_submission(
    runs: Sequence[tuple[PlainRun, float]], samples: Sequence[Sample], file: Path, recipe: Recipe
) -> None:
    """Masks of the test frames by the weighted mean of the runs' folds, as .npy and .zip."""
    if not samples:
        return
    # Frame by frame, the runs side by side: no probabilities wait on disk.
    streams = [_probabilities(finished, weight, samples, recipe) for finished, weight in runs]
    masks = [
        winners(np.sum(prob_MHWC, axis=0), sample.hw)
        for sample, *prob_MHWC in zip(samples, *streams, strict=True)
    ]
    np.save(file, np.stack(masks))
    with zipfile.ZipFile(file.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, file.name)


def load_best(config: Config, file: Path, recipe: Recipe) -> Predictor:
    """A fold's averaged weights in evaluation mode."""
    model = DepthFpn(config.model, len(config.data.classes))
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return Predictor(to_device(model.eval(), recipe), config, recipe)


def _probabilities(
    finished: PlainRun, weight: float, samples: Sequence[Sample], recipe: Recipe
) -> Iterator[NDArray[np.float32]]:
    """Yield every frame's (H, W, C) sum over a run's folds of its weighted mean over views."""
    config, folds = finished.config, finished.config.data.folds
    models = [
        load_best(config, finished.folder / f"best{fold}.pt", recipe) for fold in range(folds)
    ]
    for frames in models[0].batches(samples):
        sums_BHWC = [
            weight / folds * model.mean_over_views(frames, (finished.temperature,))[0]
            for model in models
        ]
        yield from np.sum(sums_BHWC, axis=0)
