"""AdamW, its learning rate by step, and the average of the weights."""

import copy
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


class Ema:
    """Keeps `network`, a copy in evaluation mode whose weights follow the trained ones.

    Floating parameters and buffers are averaged, integer buffers copied. With `warmup` the decay
    of update t (from 0) is min(decay, (1 + t) / (10 + t)), so that a short run does not average
    its random start (Tan and Le 2019's TensorFlow recipe uses the same form).
    """

    def __init__(self, network: nn.Module, decay: float, *, warmup: bool) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.warmup = warmup
        averaged, trained = _tensors(self.network), _tensors(network)
        floating = [tensor.is_floating_point() for tensor in trained]
        self._averaged = [t for t, is_float in zip(averaged, floating, strict=True) if is_float]
        self._trained = [t for t, is_float in zip(trained, floating, strict=True) if is_float]
        self._copies = [t for t, is_float in zip(averaged, floating, strict=True) if not is_float]
        self._counters = [t for t, is_float in zip(trained, floating, strict=True) if not is_float]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the present weights after global step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(self._averaged, self._trained, 1.0 - decay)
        if self._counters:
            torch._foreach_copy_(self._copies, self._counters)


def _tensors(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers; both copies of a network list them in one order."""
    return [*(p.detach() for p in network.parameters()), *network.buffers()]
