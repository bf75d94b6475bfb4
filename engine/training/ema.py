"""Exponential moving average of a network's weights in one fused update."""

import copy

import torch
from torch import Tensor, nn


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
