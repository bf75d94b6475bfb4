"""The recipe's training of a fold, written for Lightning: its Trainer owns the loops.

Axes: B frames of a batch, C classes, H W pixels.
"""

import copy
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor

from benchmarks.plain.data import Samples, crop_loader, frame_loader
from benchmarks.plain.loss import RecipeLoss
from benchmarks.plain.model import DepthFpn, build_model
from benchmarks.plain.recipe import Recipe
from benchmarks.plain.run import Frames, Predictor, StateAverage, schedule, winners
from benchmarks.plain.selection import confusion, mean_iou
from engine.config import Config


def train_fold(
    config: Config, training: Samples, validation: Samples, fold: int, best: Path, recipe: Recipe
) -> list[dict[str, float]]:
    """As `benchmarks.plain.run.train_fold`, by draws of its own: it asks the loader once more.

    An epoch is validated when `validate_every` says; the last one is not besides.
    """
    seed = config.training.seed + fold
    torch.manual_seed(seed)
    model = build_model(config, recipe)
    loader = crop_loader(training, config, recipe, seed)
    module = FoldModule(model, config, recipe, len(loader), best)
    fit(module, loader, frame_loader(validation, config, recipe), best.parent)
    return module.history


class FoldModule(lightning.LightningModule):  # type: ignore[misc] # only the extra has it
    """The network, its losses, optimizer and schedule, and the average of its weights.

    Attributes:
        history: one line an epoch: mean losses, and the validation mIoU where there was one.
        last_loss: of the last step.
    """

    def __init__(
        self, model: DepthFpn, config: Config, recipe: Recipe, epoch_steps: int, best: Path
    ) -> None:
        """Begin with a network's present weights.

        Args:
            model: on the recipe's device.
            config: the experiment.
            recipe: how.
            epoch_steps: steps of an epoch, for the schedule.
            best: where the averaged weights of the best validated epoch go.
        """
        super().__init__()
        self.model, self.averaged = model.train(), copy.deepcopy(model).eval()
        self.config, self.recipe, self.epoch_steps, self.best = config, recipe, epoch_steps, best
        self.loss = RecipeLoss(config, recipe.device)
        self.average = StateAverage(model, config.training)
        self.history: list[dict[str, float]] = []
        self.validated: dict[str, float] = {}
        self.best_miou, self.last_loss = -1.0, 0.0

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, under a schedule that goes on step by step."""
        training = self.config.training
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=training.lr, weight_decay=training.weight_decay
        )
        factor = schedule(training, self.epoch_steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        each_step = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": each_step}

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        """The loss of a batch of crops."""
        image, depth_m, label = batch
        image = image.contiguous(memory_format=self.recipe.memory_format)
        logits, depth = self.model(image)
        total, segmentation, depth_loss = self.loss(logits, depth, label.long(), depth_m)
        losses = {"loss": total, "segmentation_loss": segmentation, "depth_loss": depth_loss}
        self.log_dict(losses, on_step=False, on_epoch=True, batch_size=len(image))
        return total

    def on_train_batch_end(self, outputs: dict[str, Tensor], *_: object) -> None:
        """Average the weights."""
        self.average.update(self.model)
        self.last_loss = outputs["loss"].item()

    def on_validation_epoch_start(self) -> None:
        """Take the average."""
        self.averaged.load_state_dict(self.average.state)
        classes = len(self.config.data.classes)
        self.count_CC = np.zeros((classes, classes), np.int64)

    def validation_step(self, frames: Frames, _index: int) -> None:
        """Count pixels of whole frames by truth and prediction."""
        predictor = Predictor(self.averaged, self.config, self.recipe)
        (prob_BHWC,) = predictor.view_probabilities(frames, 1.0, flip=False)
        for prob_HWC, (_, _, label_HW) in zip(prob_BHWC, frames, strict=True):
            predicted_HW = winners(prob_HWC, label_HW.shape)
            self.count_CC += confusion(predicted_HW, label_HW, len(self.count_CC))

    def on_validation_epoch_end(self) -> None:
        """Keep the average if it is the best."""
        self.validated = {"miou": mean_iou(self.count_CC)}
        if self.validated["miou"] > self.best_miou:
            self.best_miou = self.validated["miou"]
            self.best.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self.averaged.state_dict(), self.best)

    def on_train_epoch_end(self) -> None:
        """Note the epoch, after its validation."""
        losses = {key: loss.item() for key, loss in self.trainer.callback_metrics.items()}
        self.history.append(losses | self.validated)
        self.validated = {}


def fit(
    module: FoldModule, batches: Iterable[Any], frames: Iterable[Any] | None, folder: Path
) -> None:
    """Train by a Trainer that keeps to itself: no logger, bar, or checkpoints beside the best.

    Args:
        module: what to train.
        batches: of an epoch.
        frames: to validate on; None = not at all.
        folder: of what Lightning writes.
    """
    training, recipe = module.config.training, module.recipe
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = lightning.Trainer(
        accelerator="cpu" if recipe.device == "cpu" else "gpu",
        devices=1,
        precision="16-mixed" if recipe.amp else "32-true",
        max_epochs=training.epochs,
        check_val_every_n_epoch=training.validate_every,
        gradient_clip_val=training.clip_norm or None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    # It advises as many workers as there are cores, and validation frames.
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    # Lightning 2.6 asks by a class that PyTorch 2.14 deprecates.
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)
    trainer.fit(module, batches, frames)
