"""What a training step asks of whoever knows the other processes, and the other parts of a batch.

B: rows that this process has. G: processes.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from engine.config import TrainingConfig
from engine.data.accumulate import Shares, part_sizes
from engine.data.batch import Batch
from engine.distributed.world import World
from engine.mistakes import ConfigError

Backward = Callable[[Batch, Shares], Tensor]
"""Adds the gradient of some rows that count so much to the parameters'; their (3,) losses."""


class Exchange(Protocol):
    """Makes of the rows here, and of those elsewhere, the gradient of the whole batch."""

    @property
    def rows(self) -> slice:
        """Which of a batch's rows are computed here."""
        ...

    @property
    def is_traceable(self) -> bool:
        """Whether a forward pass may be compiled or recorded: none waits for other processes."""
        ...

    @property
    def is_steady(self) -> bool:
        """Whether gradients lie in the same memory after every step: what follows is recordable."""
        ...

    @property
    def is_asked(self) -> bool:
        """Whether a signal had asked some process to stop when the last step began: all agree."""
        ...

    def begin(self, seed: int) -> None:
        """Begin a step, whose dropout is drawn by this seed."""
        ...

    def gradient(self, batch: Batch, backward: Backward) -> Tensor:
        """Leave the gradient of the whole batch in the parameters; returns its (3,) losses.

        `batch` is the `rows` here. Every process ends with the same bytes.
        """
        ...


def resolved_reduce(asked: str, device: torch.device) -> str:
    """How parts are added up: tree or fast, where `auto` is asked for by the device."""
    if asked != "auto":
        return asked
    return "tree" if device.type == "cpu" else "fast"


def cut_parts(config: TrainingConfig, images: int, least: int, world: World) -> list[int]:
    """Images in each part of a batch of so many, of which none has fewer than `least`.

    Raises ConfigError if there are more processes than parts.
    """
    sizes = part_sizes(images, config.parts, least)
    if world.size > len(sizes):
        told = f"{world.size} processes, and training.parts = {config.parts}"
        if len(sizes) < config.parts:
            told += f" cuts a batch of {images} into {len(sizes)} parts"
        raise ConfigError(
            f"{told}: each process needs a part of a batch; start {len(sizes)} or fewer "
            f"(--nproc-per-node), or begin a run with --training.parts {world.size} or more and "
            "a --training.batch_size to match"
        )
    return sizes


def open_exchange(
    network: nn.Module,
    config: TrainingConfig,
    images: int,
    device: torch.device,
    world: World | None = None,
    *,
    replay: bool = False,
) -> Exchange:
    """What exchanges gradients of a network, which is changed for it: see the kinds.

    Args:
        network: on its device, in training; as it is going to be run.
        config: of the training; its `reduce` chooses the kind.
        images: of a batch.
        device: of the network.
        world: the processes; None = one.
        replay: whether what a process computes by itself may be recorded as CUDA graphs.
    """
    if resolved_reduce(config.reduce, device) == "fast":
        from engine.distributed.fast import FastExchange

        return FastExchange(network, config, images, world or World(), replay=replay)
    from engine.distributed.tree import TreeExchange

    return TreeExchange(network, config, images, world or World())
