"""The learning rate at each step, and the average of the weights."""

import math
from collections.abc import Callable

import torch
from torch import nn

from engine.config import TrainingConfig


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
