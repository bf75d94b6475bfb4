"""A run by hand: training fold by fold, views, out-of-fold predictions, submission; a blend.

A fold is trained by AdamW under a schedule; of the average of its weights the best validated is
kept. A view is the frame by cv2.resize before the network, softmax and cv2.resize after it.

Axes: B frames of a batch, T temperatures, M runs, C classes, H W pixels of the base size.
"""

import copy
import functools
import itertools
import math
import operator
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.plain.data import Array, Samples, add_depth, crop_loader, frame_loader, read_label
from benchmarks.plain.loss import RecipeLoss
from benchmarks.plain.model import DepthFpn, build_model
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.selection import confusion, grid_weights, mean_iou, resized
from engine.config import Config, TrainingConfig
from engine.data.folds import Folds
from engine.frames.index import Dataset
from engine.model.network import input_normalisation
from engine.views.zoom import base_hw, view_hw

Frames = Sequence[tuple[Array, Array, Array]]
"""Image, depth and label of each frame, as `benchmarks.plain.data.read_frames` gives them."""


class PlainRun(NamedTuple):
    """What a run left: `best{fold}.pt` and `prob.npy` in its folder, and what was chosen."""

    config: Config
    folder: Path
    temperature: float
    miou_T: tuple[float, ...]
    """OOF mIoU by temperature."""
    pixels: int
    """that were counted"""


def run(config: Config, dataset: Dataset, folds: Folds, folder: Path, recipe: Recipe) -> PlainRun:
    """Train every fold, predict out-of-fold, choose the temperature, write a submission."""
    samples = dataset.train.samples
    files = [folder / f"best{fold}.pt" for fold in range(folds.count)]
    for fold, file in enumerate(files):
        training = [samples[i] for i in folds.training(fold)]
        validation = [samples[i] for i in folds.validation(fold)]
        train_fold(config, training, validation, fold, file, recipe)
    nets = ((load_best(config, file, recipe), folds.validation(k)) for k, file in enumerate(files))
    finished = out_of_fold(config, dataset, folder, nets)
    masks = folder / "submission.npy"
    write_submission([(finished, 1.0)], dataset.test.samples, masks, recipe)
    return finished


def train_fold(
    config: Config, training: Samples, validation: Samples, fold: int, best: Path, recipe: Recipe
) -> list[dict[str, float]]:
    """Train one fold and leave its best averaged weights in a file.

    Args:
        config: the experiment.
        training: frames to train on.
        validation: frames to validate on.
        fold: its number; seeds the fold.
        best: where the averaged weights of the best validated epoch go.
        recipe: how.

    Returns:
        One line an epoch: mean losses, and the validation mIoU where there was one.
    """
    settings = config.training
    seed = settings.seed + fold
    torch.manual_seed(seed)
    model = build_model(config, recipe)
    loader = crop_loader(training, config, recipe, seed)
    stepper = Stepper(model, config, recipe, len(loader))
    averaged = copy.deepcopy(model).eval()
    history: list[dict[str, float]] = []
    best_miou = -1.0
    for epoch in range(1, settings.epochs + 1):
        model.train()
        batches = recipe.watch(loader, averaged, stepper) if recipe.watch else loader
        logged = [stepper(*batch) for batch in batches]
        line = {key: sum(losses[key] for losses in logged) / len(logged) for key in logged[0]}
        if epoch % settings.validate_every == 0 or epoch == settings.epochs:
            averaged.load_state_dict(stepper.average.state)
            predictor = Predictor(averaged, config, recipe)
            line["miou"] = mean_iou(predictor.validate(validation))
            if line["miou"] > best_miou:
                best_miou = line["miou"]
                best.parent.mkdir(parents=True, exist_ok=True)
                torch.save(averaged.state_dict(), best)
        history.append(line)
    return history


class Stepper:
    """One training step and everything that it changes.

    Attributes:
        mark: told what has just been done.
    """

    def __init__(self, model: DepthFpn, config: Config, recipe: Recipe, epoch_steps: int) -> None:
        """Begin with a network's present weights."""
        training = config.training
        self.model, self.recipe, self.clip_norm = model.train(), recipe, training.clip_norm
        self.mark: Callable[[str], None] = lambda _: None
        self.loss = RecipeLoss(config, recipe.device)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=training.lr, weight_decay=training.weight_decay
        )
        factor = schedule(training, epoch_steps)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.scaler = torch.amp.GradScaler(enabled=recipe.amp)
        self.average = StateAverage(model, training)

    def __call__(self, image: Tensor, depth_m: Tensor, label: Tensor) -> dict[str, float]:
        """Train on one batch from the loader; returns its losses, for which the host waits."""
        image, depth_m, label = (
            part.to(self.recipe.device, non_blocking=True) for part in (image, depth_m, label)
        )
        image, label = image.contiguous(memory_format=self.recipe.memory_format), label.long()
        self.optimizer.zero_grad()
        self.mark("other")
        with self.recipe.autocast():
            logits, depth = self.model(image)
            self.mark("forward")
            for prediction in (logits, depth):
                # The loss ends where its gradients reach what was predicted.
                prediction.register_hook(lambda _: self.mark("loss"))
            total, segmentation, depth_loss = self.loss(logits, depth, label, depth_m)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.mark("backward")
        self.scaler.step(self.optimizer)
        self.mark("optimizer")
        self.scaler.update()
        self.scheduler.step()
        self.mark("other")
        self.average.update(self.model)
        self.mark("average")
        losses = {"loss": total, "segmentation_loss": segmentation, "depth_loss": depth_loss}
        return {key: loss.item() for key, loss in losses.items()}


class StateAverage:
    """Exponential moving average over the state dict, tensor by tensor."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.decay, self.warmup, self.updates = config.ema_decay, config.ema_warmup, 0
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present weights."""
        step, self.updates = self.updates, self.updates + 1
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[key].mul_(decay).add_(value, alpha=1 - decay)
            else:
                self.state[key].copy_(value)


def schedule(config: TrainingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """The factor on the learning rate at each step, for `LambdaLR`."""
    steps = config.epochs * steps_per_epoch
    warmup_steps = round(config.warmup * steps)

    def factor(step: int) -> float:
        if config.schedule == "cosine_epoch":
            return 0.5 * (1 + math.cos(math.pi * (step // steps_per_epoch) / config.epochs))
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor


class Predictor(NamedTuple):
    """A network in evaluation mode and how it is applied."""

    model: Callable[[Tensor], tuple[Tensor, Tensor]]
    config: Config
    recipe: Recipe

    def validate(self, samples: Samples) -> NDArray[np.int64]:
        """(C, C) confusion of single-view predictions at the labels' own resolution."""
        classes = len(self.config.data.classes)
        count_CC = np.zeros((classes, classes), np.int64)
        for frames in frame_loader(samples, self.config, self.recipe):
            (prob_BHWC,) = self.view_probabilities(frames, 1.0, flip=False)
            for prob_HWC, (_, _, label_HW) in zip(prob_BHWC, frames, strict=True):
                count_CC += confusion(winners(prob_HWC, label_HW.shape), label_HW, classes)
        return count_CC

    def predict_fold(self, samples: Samples) -> Iterator[tuple[Array, Array]]:
        """Yield every frame's mean over views at every temperature, (T, H, W, C), and its label."""
        temperatures = self.config.inference.temperatures
        # The published scripts predict anew for each temperature.
        groups = [temperatures] if self.recipe.shared_passes else [(t,) for t in temperatures]
        for frames in frame_loader(samples, self.config, self.recipe):
            parts = [self.mean_over_views(frames, group) for group in groups]
            for b, (_, _, label_HW) in enumerate(frames):
                yield np.concatenate([part_TBHWC[:, b] for part_TBHWC in parts]), label_HW

    def mean_over_views(self, frames: Frames, temperatures: Sequence[float]) -> NDArray[np.float32]:
        """(T, B, H, W, C) mean probabilities over scales and flips; one pass a view."""
        flips = (False, True) if self.config.inference.flip else (False,)
        views = list(itertools.product(self.config.inference.scales, flips))
        seen = (self.view_probabilities(frames, scale, temperatures, flip=f) for scale, f in views)
        total_TBHWC = functools.reduce(operator.iadd, seen)
        total_TBHWC /= len(views)
        return total_TBHWC

    @torch.inference_mode()
    def view_probabilities(
        self, frames: Frames, scale: float, temperatures: Sequence[float] = (1.0,), *, flip: bool
    ) -> NDArray[np.float32]:
        """(T, B, H, W, C) probabilities of one view at the base size."""
        height, width, _ = frames[0][0].shape
        out_hw = base_hw(self.config.data, self.config.inference, (height, width))
        hw = view_hw(out_hw, scale)
        images = np.stack([_network_input(*frame[:2], hw, self.config) for frame in frames])
        image_BCHW = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(self.recipe.device)
        image_BCHW = image_BCHW.contiguous(memory_format=self.recipe.memory_format)
        with self.recipe.autocast():
            logits_BCHW, _ = self.model(image_BCHW.flip(-1) if flip else image_BCHW)
        out_TBHWC = np.empty((len(temperatures), len(frames), *out_hw, logits_BCHW.shape[1]), "f4")
        for t, temperature in enumerate(temperatures):
            prob_BCHW = F.softmax(logits_BCHW.float() / temperature, dim=1)
            prob_BCHW = prob_BCHW.flip(-1) if flip else prob_BCHW
            for b, prob_HWC in enumerate(prob_BCHW.permute(0, 2, 3, 1).cpu().numpy()):
                out_TBHWC[t, b] = resized(prob_HWC, out_hw)
        return out_TBHWC


Unseen = tuple[Predictor, NDArray[np.int64]]
"""A fold's network, and the training frames that it never saw."""


def out_of_fold(config: Config, dataset: Dataset, folder: Path, nets: Iterable[Unseen]) -> PlainRun:
    """Predict at every temperature, choose one and keep its store.

    Args:
        config: the experiment.
        dataset: its frames.
        folder: where `prob.npy` goes.
        nets: the folds' networks.
    """
    samples, temperatures = dataset.train.samples, config.inference.temperatures
    classes = len(config.data.classes)
    bases = [base_hw(config.data, config.inference, sample.hw) for sample in samples]
    height, width = np.max(bases, axis=0)
    half_hw = int(height) // 2, int(width) // 2
    count_TCC = np.zeros((len(temperatures), classes, classes), np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    files_T = [folder / f"prob_t{temperature:g}.npy" for temperature in temperatures]
    shape = len(samples), classes, *half_hw
    stores_T = [np.lib.format.open_memmap(file, "w+", np.float16, shape) for file in files_T]
    for predictor, validation in nets:
        predicted = predictor.predict_fold([samples[i] for i in validation])
        for i, (prob_THWC, label_HW) in zip(validation, predicted, strict=True):
            for t, prob_HWC in enumerate(prob_THWC):
                mask_HW = winners(prob_HWC, label_HW.shape)
                count_TCC[t] += confusion(mask_HW, label_HW, classes)
                stores_T[t][i] = resized(prob_HWC, half_hw).transpose(2, 0, 1)
    miou_T = tuple(mean_iou(count_CC) for count_CC in count_TCC)
    best = int(np.argmax(miou_T))
    for store in stores_T:
        store.flush()
    files_T.pop(best).rename(folder / "prob.npy")
    for file in files_T:
        file.unlink()
    return PlainRun(config, folder, temperatures[best], miou_T, int(count_TCC[0].sum()))


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
    runs: Sequence[tuple[PlainRun, float]], samples: Samples, file: Path, recipe: Recipe
) -> None:
    """Masks of the test frames by the weighted mean of the runs' folds, as .npy and .zip."""
    if not samples:
        return
    # Frame by frame, the runs side by side: no probabilities wait on disk.
    streams = [_summed(finished, weight, samples, recipe) for finished, weight in runs]
    masks = [
        winners(np.sum(prob_MHWC, axis=0), sample.hw)
        for sample, *prob_MHWC in zip(samples, *streams, strict=True)
    ]
    np.save(file, np.stack(masks))
    with zipfile.ZipFile(file.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, file.name)


def load_best(config: Config, file: Path, recipe: Recipe) -> Predictor:
    """A fold's averaged weights in evaluation mode."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    return Predictor(build_model(config, recipe, state).eval(), config, recipe)


def winners(prob_HWC: Array, hw: Sequence[int]) -> NDArray[np.uint8]:
    """(H, W) classes of largest probability at another size."""
    mask_HW: NDArray[np.uint8] = resized(prob_HWC, hw).argmax(axis=2).astype(np.uint8)
    return mask_HW


def _summed(finished: PlainRun, weight: float, samples: Samples, recipe: Recipe) -> Iterator[Array]:
    """Yield every frame's (H, W, C) sum over a run's folds of its weighted mean over views."""
    config, folds = finished.config, finished.config.data.folds
    files = [finished.folder / f"best{fold}.pt" for fold in range(folds)]
    models = [load_best(config, file, recipe) for file in files]
    for frames in frame_loader(samples, config, recipe):
        means = (model.mean_over_views(frames, (finished.temperature,))[0] for model in models)
        yield from np.sum([weight / folds * mean_BHWC for mean_BHWC in means], axis=0)


def _network_input(image_HW3: Array, depth_HW: Array, hw: Sequence[int], config: Config) -> Array:
    normalisation = input_normalisation(config.model)
    image_hw3 = resized(image_HW3, hw).astype(np.float32)
    image_hw3 -= np.array(normalisation.mean, np.float32)
    image_hw3 /= np.array(normalisation.std, np.float32)
    if config.model.input == "rgb":
        return image_hw3
    depth_hw = cv2.resize(depth_HW, (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST)
    return add_depth(image_hw3, depth_hw)
