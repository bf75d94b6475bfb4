"""AdamW and the learning rate of a step, a pure function of the step."""

import math

import torch
from torch import Tensor, nn

from engine.config import TrainingConfig


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over every parameter, in torch's fused form (one pass over the weights).

    On a GPU its learning rate and step counts are tensors there, as a recorded step needs them.
    """
    device = next(network.parameters()).device
    on_gpu = device.type == "cuda"
    return torch.optim.AdamW(
        network.parameters(),
        lr=torch.tensor(config.lr, device=device) if on_gpu else config.lr,
        weight_decay=config.weight_decay,
        fused=True,
        capturable=on_gpu,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` from now on; no host synchronisation."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of global step `step`, counted from 0 over the whole fold.

    `cosine_epoch` holds lr (1 + cos(pi e / E)) / 2 through epoch e, as the reports do.
    `warmup_cosine` rises linearly over the first `warmup` share of the steps, then falls by a
    cosine to 0 at the last step.
    """
    if config.schedule == "cosine_epoch":
        epoch = step // steps_per_epoch
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * epoch / config.epochs))
    steps = config.epochs * steps_per_epoch
    warmup_steps = round(config.warmup * steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * share))
