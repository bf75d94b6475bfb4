"""ZeRO-1: of the optimiser's state and the weight average each process keeps those of some weights.

Whole parameters are kept by one process, not slices of them: a slice's last values leave the fused
AdamW's vectors and are rounded otherwise (PyTorch 2.14 on a CPU: cut at 7, one value of 100,003
differed after five steps), and so a run's bytes are those of one that keeps everything everywhere.
In exchange, the largest share is up to one parameter larger than the others.

Source: Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models",
SC 2020.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from engine.distributed.world import World

_CHUNK_BYTES = 25 << 20
"""That travel at once."""


class Shards:
    """Who keeps which parameters' state: neighbours, about as many values in each process."""

    def __init__(self, parameters: Sequence[Tensor], world: World) -> None:
        self.world, self.parameters = world, list(parameters)
        total, before, self.owners = sum(p.numel() for p in self.parameters), 0, list[int]()
        for parameter in self.parameters:
            middle = before + parameter.numel() / 2
            self.owners.append(min(int(middle * world.size / total), world.size - 1))
            before += parameter.numel()
        self.kept = [n for n, owner in enumerate(self.owners) if owner == world.rank]
        """Numbers of this process's."""

    def spread(
        self, tensors: Sequence[Tensor], take: Callable[[int, Tensor], None] | None = None
    ) -> None:
        """Copy each tensor, one for each parameter and laid out alike, from whoever keeps it.

        Args:
            tensors: of this process only what it keeps has to be there.
            take: called instead with the number and the value of each that is not this process's.
        """
        for owner, numbers in self._chunks():
            sizes = [self.parameters[n].numel() for n in numbers]
            flat = self.parameters[numbers[0]].new_empty(sum(sizes))
            parts = flat.split(sizes)  # type: ignore[no-untyped-call]
            views = [
                torch.as_strided(part, p.shape, p.stride())
                for part, p in zip(parts, (self.parameters[n] for n in numbers), strict=True)
            ]
            mine = owner == self.world.rank
            if mine:
                torch._foreach_copy_(views, [tensors[n].detach() for n in numbers])
            dist.broadcast(flat, owner, group=self.world.group)
            if mine:
                continue
            for n, view in zip(numbers, views, strict=True):
                if take is not None:
                    take(n, view)
                else:
                    tensors[n].detach().copy_(view)

    def _chunks(self) -> Iterator[tuple[int, list[int]]]:
        """Owner and numbers of neighbours that travel together."""
        numbers, size = list[int](), 0
        for n, parameter in enumerate(self.parameters):
            other = bool(numbers) and self.owners[n] != self.owners[numbers[0]]
            if numbers and (other or size + parameter.nbytes > _CHUNK_BYTES):
                yield self.owners[numbers[0]], numbers
                numbers, size = [], 0
            numbers.append(n)
            size += parameter.nbytes
        yield self.owners[numbers[0]], numbers
