"""AdamW and weight average of which a process keeps a share: see `engine.distributed.shards`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.config import TrainingConfig
from engine.distributed.shards import Shards
from engine.training.step import Ema

_MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedAdamW(torch.optim.AdamW):
    """PyTorch's, which moves the parameters that this process keeps; `spread` brings the others.

    `state_dict` is called by all processes at once, and is whole in the first.
    """

    def __init__(self, shards: Shards, parameters: list[nn.Parameter], **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self._shards = shards

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step; `closure` is none."""
        assert closure is None
        kept, all_of_them = set(self._shards.kept), self._shards.parameters
        others = [p for n, p in enumerate(all_of_them) if n not in kept]
        gradients = [p.grad for p in others]
        for parameter in others:
            parameter.grad = None  # without one it is passed over, and never has a state
        super().step()
        for parameter, gradient in zip(others, gradients, strict=True):
            parameter.grad = gradient

    def spread(self) -> None:
        """Bring what other processes have moved."""
        self._shards.spread(self._shards.parameters)

    def state_dict(self) -> dict[str, Any]:
        """As PyTorch's, in the first process; elsewhere what is kept there."""
        whole, shards = super().state_dict(), self._shards
        state, count = whole["state"], len(shards.parameters)
        # A parameter without a gradient so far has no state, whoever keeps it.
        steps = torch.full((count,), -1.0)
        for n, entry in state.items():
            steps[n] = entry["step"]
        dist.all_reduce(steps, dist.ReduceOp.MAX, shards.world.host)
        found = {n: dict(entry) for n, entry in state.items()}
        for name in _MOMENTS:
            kept = [state.get(n, {}).get(name, p) for n, p in enumerate(shards.parameters)]

            def take(n: int, value: Tensor, name: str = name) -> None:
                if shards.world.leads and steps[n] >= 0:
                    like = shards.parameters[n]
                    entry = found.setdefault(n, {"step": steps[n].to(like.device, copy=True)})
                    entry[name] = torch.empty_like(like, device="cpu").copy_(value)

            shards.spread(kept, take)
        return {**whole, "state": {n: found[n] for n in sorted(found)}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what this process keeps from a whole state."""
        kept = set(self._shards.kept)
        state = {n: entry for n, entry in state_dict["state"].items() if n in kept}
        super().load_state_dict({**state_dict, "state": state})


class ShardedEma(Ema):
    """An average that each process has a part of; all of it is in `network` within `whole`."""

    def __init__(self, network: nn.Module, config: TrainingConfig, shards: Shards) -> None:
        super().__init__(network, config.ema_decay, warmup=config.ema_warmup)
        self._shards = shards
        self._all = list(self.network.parameters())
        count, kept = len(self._all), shards.kept
        buffers = range(count, len(self._averaged))
        self._averaged = [self._averaged[n] for n in (*kept, *buffers)]
        self._trained = [self._trained[n] for n in (*kept, *buffers)]
        if self._moves is not None:
            self._moves = [self._moves[n] for n in (*kept, *buffers)]
        self.averages = self._averaged[: len(kept)]
        self._release()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have all of the average in every process, for as long as it is looked at or loaded."""
        for n in self._others():
            self._all[n].untyped_storage().resize_(self._all[n].nbytes)
        self._shards.spread(self._all)
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        for n in self._others():
            self._all[n].untyped_storage().resize_(0)

    def _others(self) -> list[int]:
        kept = set(self._shards.kept)
        return [n for n in range(len(self._all)) if n not in kept]
