"""Work that processes take in turns, batch by batch, for the first of them to use in order.

Batch b of N is process b % G's. What comes of it is tensors of the CPU.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from engine import interrupts
from engine.distributed.world import World

Results = tuple[Tensor, ...]

_KINDS = (torch.int64, torch.float64, torch.float32, torch.float16, torch.uint8, torch.bool)
_AXES = 5
"""Of a tensor, at most."""
_MOST = 8
"""Tensors of a batch, at most."""


def in_order(world: World, own: Iterator[Results], batches: int) -> Iterator[Results]:
    """Every batch's results, by the first process, from its `own` and those that others `hand`."""
    for batch in range(batches):
        rank = batch % world.size
        yield next(own) if rank == world.rank else _receive(world, rank)


def hand(world: World, own: Iterator[Results]) -> None:
    """Give the first process the results of this one's batches, each as soon as it can take it."""
    for results in own:
        head = torch.full((_MOST, 2 + _AXES), -1)
        for row_7, tensor in zip(head, results, strict=False):
            row_7[0], row_7[1] = _KINDS.index(tensor.dtype), tensor.ndim
            row_7[2 : 2 + tensor.ndim] = torch.tensor(tensor.shape)
        dist.send(head, 0, world.host)
        for tensor in results:
            dist.send(_bytes(tensor), 0, world.host)


def stop_together(world: World) -> None:
    """Stop here if a signal asked any process to; all of them ask as often."""
    if world.any(interrupts.is_asked()):
        interrupts.stop()


def _receive(world: World, rank: int) -> Results:
    head = torch.empty(_MOST, 2 + _AXES, dtype=torch.int64)
    dist.recv(head, rank, world.host)
    results = []
    for kind, axes, *shape in head.tolist():
        if kind < 0:
            break
        tensor = torch.empty(shape[:axes], dtype=_KINDS[kind])
        dist.recv(_bytes(tensor), rank, world.host)
        results.append(tensor)
    return tuple(results)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)
