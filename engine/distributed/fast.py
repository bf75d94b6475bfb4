"""`training.reduce = "fast"`: a process passes all its rows at once, and gradients are added up.

Axes: B images of this process, M passes.
"""

import itertools
import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from engine import interrupts
from engine.config import TrainingConfig
from engine.data.accumulate import Shares, shares_of, weight_sums
from engine.data.batch import Batch
from engine.distributed.dropout import Rows, share_masks
from engine.distributed.exchange import Backward, cut_parts
from engine.distributed.flat import FlatGradients, OverlappedSum
from engine.distributed.global_norm import use_global_norms
from engine.distributed.null_biases import null_biases
from engine.distributed.world import World
from engine.runtime.graphs import Replayed
from kernels.batch_norm.everywhere import Add

_LOSSES = 3

_log = logging.getLogger(__name__)


class FastExchange:
    """See the module; an `engine.distributed.exchange.Exchange`.

    Where steps are replayed, that are two recordings: all passes, into one buffer, and what the
    optimiser makes of it; in between the buffer is added up. Else it is added up while backward is
    still at work. Batch norms have the statistics of all processes' rows, which cannot be recorded.
    Of biases that they take away again the gradient is zero, as it is but for rounding.
    """

    def __init__(
        self,
        network: nn.Module,
        config: TrainingConfig,
        images: int,
        world: World,
        *,
        replay: bool = False,
    ) -> None:
        """Change the network's dropout and batch norms for it; arguments as of `open_exchange`."""
        # One row is enough here: a batch norm sees those of all processes.
        sizes = cut_parts(config, images, 1, world)
        own, starts = world.share(len(sizes)), [0, *itertools.accumulate(sizes)]
        self.rows = slice(starts[own.start], starts[own.stop])
        self._world, self._config = world, config
        passes = min(config.accumulate, *sizes)
        self._passes = rows_of_passes([sizes[part] for part in own], passes)
        parameters = [p for p in network.parameters() if p.requires_grad]
        device = parameters[0].device
        self._masks = Rows(device)
        share_masks(network, self._masks)
        self._numbers = [
            torch.from_numpy(rows + self.rows.start).to(device) for rows in self._passes
        ]
        self._on_gpu = device.type != "cpu"
        self.norms = use_global_norms(network, adder(world)) if world.size > 1 else 0
        self.is_traceable, self.is_steady = not self.norms, True
        if self.norms:
            told = "training.reduce = fast: %d batch norms have the statistics of all processes%s"
            eager = ", so steps are neither compiled nor replayed" if self._on_gpu else ""
            _log.info(told, self.norms, eager)
        # Behind the gradients: losses, and how many processes were asked to stop.
        gradients = FlatGradients(parameters, tail=_LOSSES + 1)
        self.sum = OverlappedSum(gradients, world.group if world.size > 1 else None)
        self._replayed = Replayed(self._all_passes) if replay and not self.norms else None
        self._backward: Backward | None = None
        self._network = network
        self._null: list[Tensor] | None = None
        self.is_asked = False

    def begin(self, seed: int) -> None:
        """See `Exchange`."""
        self._masks.begin(seed)

    def gradient(self, batch: Batch, backward: Backward) -> Tensor:
        """See `Exchange`; on a CPU the host waits for the other processes."""
        world, tail = self._world, self.sum.gradients.tail
        asked = interrupts.is_asked()
        if self._on_gpu:
            asked = world.any(asked)
        # First what all rows weigh: a loss is a mean over them.
        here_M2 = torch.stack(weight_sums(self._cut(batch), self._config), dim=1)
        passes, first = len(here_M2), world.rank * len(here_M2)
        all_M2 = world.gather(here_M2, [passes] * world.size)
        shares = shares_of(*all_M2.unbind(1))[first : first + passes]
        share_M2 = torch.stack([torch.stack([*map(torch.as_tensor, share)]) for share in shares])
        given = batch.image_BCHW, batch.depth_BHW, batch.label_BHW, share_M2
        if self._null is None:
            self._null = self._null_gradients(batch.image_BCHW)
        self._backward = backward
        if self._replayed is not None:
            self._replayed(*given)
            self.sum.finish_at_once()
        else:
            tail[_LOSSES] = float(asked)
            self._all_passes(*given, overlap=world.size > 1)
            self.sum.finish()
        if self._null:
            torch._foreach_zero_(self._null)
        self._backward = None  # its step holds this
        self.is_asked = asked if self._on_gpu else bool(tail[_LOSSES] > 0)
        return tail[:_LOSSES]

    def _null_gradients(self, image_BCHW: Tensor) -> list[Tensor]:
        """Where the gradients of biases lie that count for nothing; it is said once."""
        C, H, W = image_BCHW.shape[1:]
        names, gradients = null_biases(self._network, (C, H, W)), self.sum.gradients
        null = {id(self._network.get_parameter(name)) for name in names}
        placed = zip(gradients.parameters, gradients.views, strict=True)
        if names:
            told = (
                "training.reduce = fast: %d biases, which batch norms take away, have no gradient"
            )
            _log.info(told, len(names))
        return [view for parameter, view in placed if id(parameter) in null]

    def _all_passes(
        self,
        image_BCHW: Tensor,
        depth_BHW: Tensor,
        label_BHW: Tensor,
        share_M2: Tensor,
        *,
        overlap: bool = False,
    ) -> Tensor:
        """Leave this process's share of gradient and losses in the buffer."""
        assert self._backward is not None  # within `gradient`
        self.sum.begin()
        tail, total_3 = self.sum.gradients.tail, None
        # The losses do not ask which samples they are of.
        batch = Batch(image_BCHW, depth_BHW, label_BHW, np.arange(len(image_BCHW)))
        for number, part in enumerate(self._cut(batch)):
            self._masks.these(self._numbers[number])
            if overlap and number == len(self._passes) - 1:
                self.sum.last_pass()
            losses_3 = self._backward(part, Shares(*share_M2[number]))
            total_3 = losses_3 if total_3 is None else total_3 + losses_3
        assert total_3 is not None  # a process has rows
        tail[:_LOSSES] = total_3
        return tail

    def _cut(self, batch: Batch) -> list[Batch]:
        """The rows of each pass."""
        if len(self._passes) == 1:
            return [batch]
        parts = []
        for rows, numbers in zip(self._passes, self._numbers, strict=True):
            at = numbers - self.rows.start
            image = batch.image_BCHW[at].contiguous(memory_format=torch.channels_last)
            depth, label = batch.depth_BHW[at], batch.label_BHW[at]
            parts.append(Batch(image, depth, label, batch.index[rows]))
        return parts


def rows_of_passes(part_rows: Sequence[int], passes: int) -> list[NDArray[np.int64]]:
    """Which of a process's rows each pass has: its share of every part, whoever has that part.

    So the rows that a batch norm sees together do not depend on the number of processes. No part
    has fewer rows than there are passes.
    """
    starts = list(itertools.accumulate(part_rows, initial=0))
    return [
        np.concatenate(
            [
                np.arange(start + rows * n // passes, start + rows * (n + 1) // passes)
                for start, rows in zip(starts, part_rows, strict=False)
            ]
        )
        for n in range(passes)
    ]


def adder(world: World) -> Add:
    """What adds a vector up over all processes, in place."""
    # No method: networks are copied with it.
    group = world.group

    def add(total: Tensor) -> None:
        dist.all_reduce(total, group=group)

    return add
