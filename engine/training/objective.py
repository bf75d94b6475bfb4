"""The loss that a fold is trained by: of its config, and of the frames that it trains on."""

from typing import TYPE_CHECKING, cast

from torch import Tensor

from engine.runtime.device import DevicePolicy
from engine.training.step import TrainingLoss, class_weights

if TYPE_CHECKING:
    from engine.model.plugged import Term
    from engine.training.loop import FoldTask


def loss_of(task: "FoldTask", policy: DevicePolicy) -> TrainingLoss:
    """Cross-entropy and depth loss, and the terms that the config gives weight."""
    config, weight_C = task.config.training, _class_weights(task, policy)
    terms: list[tuple[float, Term]] = []
    ours = config.dice_weight, config.lovasz_weight, config.focal_weight, config.label_smoothing
    if any(ours):
        from engine.training.terms import Terms

        terms.append((1.0, Terms(config)))
    if supervision := task.config.model.supervision:
        from engine.training.terms import Supervision

        # The network predicts what it takes, where it has weight.
        terms.append((supervision, cast("Term", Supervision(weight_C))))
    if config.loss_terms:
        from engine.model.plugged import load_terms

        terms += load_terms(config)
    return TrainingLoss(config, weight_C, policy.operations, tuple(terms))


def _class_weights(task: "FoldTask", policy: DevicePolicy) -> Tensor:
    training, classes = task.config.training, task.config.data.classes
    weight_C = class_weights(training, classes, policy.device)
    if training.balance:
        from engine.training.balance import balanced, class_pixels, tell

        pixels_C = class_pixels(task.dataset.train.reports, task.training)
        weight_C = balanced(weight_C, pixels_C, training.balance)
        tell(weight_C, classes)
    return weight_C
