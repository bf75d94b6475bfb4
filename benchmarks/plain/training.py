"""A fold by hand: AdamW, a schedule, a weight average, epochs, validation, the best kept."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plain.data import CropDataset, training_loader
from benchmarks.plain.inference import Predictor
from benchmarks.plain.loss import RecipeLoss
from benchmarks.plain.model import DepthFpn, build_model
from benchmarks.plain.optim import StateAverage, schedule
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.selection import mean_iou
from engine.config import Config
from engine.frames.decode import Sample


class Stepper:
    """One training step and everything that it changes."""

    def __init__(
        self,
        model: DepthFpn,
        config: Config,
        recipe: Recipe,
        steps_per_epoch: int,
        mark: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin with a network's present weights; `mark` is told what has just been done."""
        training = config.training
        self.model, self.recipe, self.clip_norm = model.train(), recipe, training.clip_norm
        self.mark = mark
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
        device = self.recipe.device
        image = image.to(device, non_blocking=True)
        if self.recipe.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        depth_m = depth_m.to(device, non_blocking=True)
        label = label.to(device, non_blocking=True).long()
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


def train_fold(
    config: Config,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    fold: int,
    best: Path,
    recipe: Recipe,
) -> list[dict[str, Any]]:
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
    torch.manual_seed(settings.seed + fold)
    model = build_model(config, recipe)
    seed = settings.seed + fold
    loader = training_loader(CropDataset(training, config, seed), settings, recipe, seed)
    stepper = Stepper(model, config, recipe, len(loader))
    averaged = copy.deepcopy(model).eval()
    history: list[dict[str, Any]] = []
    best_miou = -1.0
    for epoch in range(1, settings.epochs + 1):
        model.train()
        logged = [stepper(*batch) for batch in loader]
        line: dict[str, Any] = {
            key: sum(losses[key] for losses in logged) / len(logged) for key in logged[0]
        }
        if epoch % settings.validate_every == 0 or epoch == settings.epochs:
            averaged.load_state_dict(stepper.average.state)
            line["miou"] = mean_iou(Predictor(averaged, config, recipe).validate(validation))
            if line["miou"] > best_miou:
                best_miou = line["miou"]
                best.parent.mkdir(parents=True, exist_ok=True)
                torch.save(averaged.state_dict(), best)
        history.append(line)
    return history
