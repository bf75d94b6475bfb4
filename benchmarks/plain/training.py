"""A run by hand, fold by fold: AdamW, a schedule, a weight average, validation, the best kept."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.plain import inference
from benchmarks.plain.data import Samples, crop_loader
from benchmarks.plain.loss import RecipeLoss
from benchmarks.plain.model import DepthFpn, build_model
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.selection import mean_iou
from engine.config import Config, TrainingConfig
from engine.data.folds import Folds
from engine.frames.index import Dataset


def run(
    config: Config, dataset: Dataset, folds: Folds, folder: Path, recipe: Recipe
) -> inference.PlainRun:
    """Train every fold, predict out-of-fold, choose the temperature, write a submission."""
    samples = dataset.train.samples
    for fold in range(folds.count):
        training = [samples[i] for i in folds.training(fold)]
        validation = [samples[i] for i in folds.validation(fold)]
        train_fold(config, training, validation, fold, folder / f"best{fold}.pt", recipe)
    predictors = (
        (inference.load_best(config, folder / f"best{fold}.pt", recipe), folds.validation(fold))
        for fold in range(folds.count)
    )
    finished = inference.out_of_fold(config, dataset, folder, predictors)
    file = folder / "submission.npy"
    inference.write_submission([(finished, 1.0)], dataset.test.samples, file, recipe)
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
        logged = [stepper(*batch) for batch in loader]
        line = {key: sum(losses[key] for losses in logged) / len(logged) for key in logged[0]}
        if epoch % settings.validate_every == 0 or epoch == settings.epochs:
            averaged.load_state_dict(stepper.average.state)
            predictor = inference.Predictor(averaged, config, recipe)
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

    def __init__(
        self, model: DepthFpn, config: Config, recipe: Recipe, steps_per_epoch: int
    ) -> None:
        """Begin with a network's present weights."""
        training = config.training
        self.model, self.recipe, self.clip_norm = model.train(), recipe, training.clip_norm
        self.mark: Callable[[str], None] = lambda _: None
        self.loss = RecipeLoss(config, recipe.device)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=training.lr, weight_decay=training.weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, schedule(training, steps_per_epoch)
        )
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
