"""Gradients of a batch's parts, added up in one fixed tree: the same bytes for any processes.

Each part is a forward and backward pass of its own. What the parts leave (gradients, losses, what
asks to stop) lies in one flat buffer each, which are added up in the order of
`engine.distributed.additions`: each process adds up the largest nodes of the tree in its own parts,
then gets everybody's nodes for one of G slices of the buffer, adds these up, and all gather the G
sums. So a byte travels twice, whatever G is, and every number is added to the same others.

M: passes of a batch. N: values of the buffer. G: processes. S: values of a slice.
"""

import itertools

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine import interrupts
from engine.config import TrainingConfig
from engine.data.accumulate import part_sizes, parts_of, shares_of, weight_sums
from engine.data.batch import Batch
from engine.distributed.additions import Additions, Node, added_up, nodes_of
from engine.distributed.dropout import Rows, share_masks
from engine.distributed.exchange import Backward, cut_parts
from engine.distributed.moments import Moments
from engine.distributed.world import World, gather_into

_ALIGNED = 16
"""Values that a parameter's gradient begins at a multiple of: 64 bytes, the widest vector."""

_LOSSES = 3


class TreeExchange:
    """See the module; an `engine.distributed.exchange.Exchange`."""

    def __init__(
        self, network: nn.Module, config: TrainingConfig, images: int, world: World
    ) -> None:
        """Change the network's dropout and batch norms for it; arguments as of `open_exchange`."""
        least = int(getattr(network, "least_images", 1))
        sizes = cut_parts(config, images, least, world)
        self._world, self._config, self._least = world, config, least
        self._count, self._own = len(sizes), world.share(len(sizes))
        starts = [0, *itertools.accumulate(sizes)]
        self.rows = slice(starts[self._own.start], starts[self._own.stop])
        passes = [part_sizes(size, config.accumulate, least) for size in sizes]
        self._passes = {part: passes[part] for part in self._own}
        self._counts = [
            sum(len(passes[part]) for part in world.share(self._count, rank))
            for rank in range(world.size)
        ]
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        device = self._parameters[0].device
        self._on_gpu = device.type != "cpu"
        self._masks = Rows(device)
        share_masks(network, self._masks)
        self._moments = Moments(network)
        self._buffers = _Buffers(self._parameters, world.size)
        self._nodes = [
            nodes_of(world.share(self._count, r), self._count) for r in range(world.size)
        ]
        self.is_traceable, self.is_steady = True, False
        self.is_asked = False

    def begin(self, seed: int) -> None:
        """See `Exchange`."""
        self._masks.begin(seed)

    def gradient(self, batch: Batch, backward: Backward) -> Tensor:
        """See `Exchange`; on a CPU the host waits for the other processes."""
        world, config = self._world, self._config
        asked = interrupts.is_asked()
        if self._on_gpu:
            asked = world.any(asked)
        pieces = parts_of(batch, [size for sizes in self._passes.values() for size in sizes])
        here_M2 = torch.stack(weight_sums(pieces, config), dim=1)
        first = sum(self._counts[: world.rank])
        all_M2 = world.gather(here_M2, self._counts)
        shares = shares_of(*all_M2.unbind(1))[first : first + len(pieces)]
        counted = iter(zip(pieces, shares, strict=True))
        additions, row = Additions(self._own, self._count), self.rows.start
        self._moments.begin()
        for part, sizes in self._passes.items():
            losses = []
            for piece, share in itertools.islice(counted, len(sizes)):
                self._masks.at(row)
                losses.append(backward(piece, share))
                self._moments.note()
                row += len(piece.index)
            value = self._buffers.fill(torch.stack(losses).sum(dim=0), asked=asked)
            for free in additions.add(part, value):
                self._buffers.release(free)
        self._moments.finish(lambda rows: world.gather(rows, self._counts))
        total_N = self._exchange(additions.take())
        self._buffers.hand_out(total_N)
        losses_3, asked_parts = self._buffers.told(total_N)
        self.is_asked = asked if self._on_gpu else bool(asked_parts > 0)
        return losses_3

    def _exchange(self, sums: list[Tensor]) -> Tensor:
        """(N,) the sum over all parts, from those of the nodes here."""
        world = self._world
        if world.size == 1:
            (total_N,) = sums
            return total_N
        size = len(sums[0]) // world.size
        got: dict[Node, Tensor] = {}
        for turn in range(max(map(len, self._nodes))):
            senders = [r for r, nodes in enumerate(self._nodes) if len(nodes) > turn]
            mine = sums[turn] if world.rank in senders else sums[0][:0]
            received = mine.new_empty(len(senders) * size)
            dist.all_to_all_single(
                received,
                mine,
                [size if r in senders else 0 for r in range(world.size)],
                [size if world.rank in senders else 0] * world.size,
                group=world.group,
            )
            slices = received.view(len(senders), size)
            got |= {self._nodes[r][turn]: part for r, part in zip(senders, slices, strict=True)}
        total_S, total_N = added_up((0, self._count), got), sums[0]
        for free in sums[1:]:
            self._buffers.release(free)
        gather_into(total_N, total_S, world.group)
        return total_N


class _Buffers:
    """Flat buffers of what is added up: gradients, losses, how many parts were asked to stop."""

    def __init__(self, parameters: list[nn.Parameter], processes: int) -> None:
        self._parameters = parameters
        sizes = [-(-p.numel() // _ALIGNED) * _ALIGNED for p in parameters]
        self._starts = list(itertools.accumulate(sizes, initial=0))
        unit = _ALIGNED * processes
        self._length = -(-(self._starts[-1] + _LOSSES + 1) // unit) * unit
        self._free: list[Tensor] = []
        self._used = [False] * len(parameters)

    def fill(self, losses_3: Tensor, *, asked: bool) -> Tensor:
        """Move the parameters' gradients into a buffer, with the losses; they have none then."""
        like = self._parameters[0]
        value = self._free.pop() if self._free else torch.zeros(self._length, device=like.device)
        views = self._views(value)
        for number, parameter in enumerate(self._parameters):
            self._used[number] |= parameter.grad is not None
            if parameter.grad is None:
                views[number].zero_()
        gradients = [(v, p.grad) for v, p in zip(views, self._parameters, strict=True)]
        there = [(view, gradient) for view, gradient in gradients if gradient is not None]
        if there:
            torch._foreach_copy_([view for view, _ in there], [given for _, given in there])
        for parameter in self._parameters:
            parameter.grad = None
        end = self._starts[-1]
        value[end : end + _LOSSES] = losses_3
        value[end + _LOSSES] = float(asked)
        return value

    def release(self, value: Tensor) -> None:
        """Let a buffer be filled again."""
        self._free.append(value)

    def hand_out(self, total_N: Tensor) -> None:
        """Give each parameter its part as its gradient, until the next step fills the buffer."""
        for number, view in enumerate(self._views(total_N)):
            self._parameters[number].grad = view if self._used[number] else None
        self._free.append(total_N)

    def told(self, total_N: Tensor) -> tuple[Tensor, Tensor]:
        """The (3,) losses, and how many parts were asked to stop."""
        end = self._starts[-1]
        return total_N[end : end + _LOSSES].clone(), total_N[end + _LOSSES]

    def _views(self, value: Tensor) -> list[Tensor]:
        """Each parameter's part, laid out as the parameter is."""
        return [
            torch.as_strided(value, p.shape, p.stride(), start)
            for p, start in zip(self._parameters, self._starts[:-1], strict=True)
        ]
