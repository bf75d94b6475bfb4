"""Running statistics of batch norms where each part of a batch is normalised by its own.

They move by each part's mean and variance in the order of the parts, on every process alike.

M: passes of a batch. S: values, of all batch norms.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Moments:
    """Keeps the statistics of each pass of a step, and moves the running ones when it ends."""

    def __init__(self, network: nn.Module) -> None:
        """Have the batch norms of a network leave a pass's own statistics where they run.

        With a momentum of 1 that is what PyTorch's layers do, timm's and ours. One without a
        momentum, which averages over all steps, is a ValueError.
        """
        self._running: list[Tensor] = []
        self._counters: list[Tensor] = []
        momenta: list[Tensor] = []
        for name, norm in network.named_modules():
            if not isinstance(norm, _BatchNorm) or not norm.track_running_stats:
                continue
            if not norm.training:  # frozen: its statistics do not move
                continue
            if norm.momentum is None:
                told = "averages over all steps, which training.parts > 1 cannot"
                raise ValueError(f"batch norm {name} {told}; give it a momentum")
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.num_batches_tracked is not None
            self._counters.append(norm.num_batches_tracked)
            for running in (norm.running_mean, norm.running_var):
                self._running.append(running)
                momenta.append(torch.full_like(running, norm.momentum))
            norm.momentum = 1.0
        self._momentum_S = torch.cat(momenta) if momenta else None
        self._before_S: Tensor | None = None
        self._passes: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Begin a step."""
        self._passes = []
        if self._running:
            self._before_S = torch.cat(self._running)

    @torch.no_grad()
    def note(self) -> None:
        """Keep the statistics of the pass that has just been made."""
        if self._running:
            self._passes.append(torch.cat(self._running))

    @torch.no_grad()
    def finish(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Move the running statistics; `gather` makes of the (M, S) here those of all processes."""
        if self._momentum_S is None or self._before_S is None:
            return
        here_MS = torch.stack(self._passes)
        all_MS = gather(here_MS)
        running_S, stays_S = self._before_S, 1.0 - self._momentum_S
        for pass_S in all_MS:
            running_S = running_S * stays_S + pass_S * self._momentum_S
        sizes = [len(running) for running in self._running]
        torch._foreach_copy_(self._running, torch.split(running_S, sizes))
        torch._foreach_add_(self._counters, len(all_MS) - len(here_MS))
