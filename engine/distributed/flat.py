"""Gradients in one buffer, and their sum over processes while backward is still at work.

PyTorch's `DistributedDataParallel` does the same for a module that it wraps. It is not used: it
averages where the engine's parts add up to the batch's loss, its `no_sync` would have to follow
`accumulate`, it wraps the network (whose keys every checkpoint has), and under `torch.compile` it
cuts the graph, which the engine compiles whole.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.hooks import RemovableHandle

BUCKET_BYTES = 25 << 20
"""Gradients that travel at once: `DistributedDataParallel`'s. Of less, each message's latency is
felt; of more, the last one, which nothing hides, is longer."""

_ALIGNED = 16
"""Values, 64 bytes: where a tensor begins on the CPU and on a GPU if it is by itself."""


class FlatGradients:
    """One buffer for the gradients of some parameters, and `tail` more numbers behind them.

    Gradients lie in it as their parameters do in memory, last parameter first: about the order in
    which backward finds them. All parameters are of one floating dtype and device.
    """

    def __init__(self, parameters: Sequence[Tensor], tail: int = 0) -> None:
        self.parameters = list(parameters)[::-1]
        """In the order of the buffer."""
        sizes = [-(-p.numel() // _ALIGNED) * _ALIGNED for p in self.parameters]
        self.starts = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
        """Of each parameter's gradient, and of the tail."""
        self.flat = self.parameters[0].new_zeros(self.starts[-1] + tail)
        self.tail = self.flat[self.starts[-1] :]
        self.views = self.laid_out(self.flat)

    def laid_out(self, flat: Tensor) -> list[Tensor]:
        """Views of a buffer of this layout, one for each of `parameters`."""
        placed = zip(self.parameters, self.starts, strict=False)
        return [torch.as_strided(flat, p.shape, p.stride(), start) for p, start in placed]

    def attach(self) -> None:
        """Let backward add to the buffer, which is zeroed up to its tail."""
        self.flat[: self.starts[-1]].zero_()
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view


class OverlappedSum:
    """Adds a buffer of gradients up over all processes of a group, bucket by bucket.

        add.begin(); earlier backward passes; add.last_pass(); the last backward pass; add.finish()

        return [torch.as_strided(flat, p.shape, p.stride(), start) for p, start in placed]
    the buffer are sent: every process sends them in one order.
    """

    def __init__(
        self,
        gradients: FlatGradients,
        group: dist.ProcessGroup | None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.gradients, self.group = gradients, group
        self.buckets = _bucket_ranges(gradients, bucket_bytes)
        self._bucket_of = {
            number: bucket
            for bucket, (first, last) in enumerate(self.buckets)
            for number in range(first, last)
        }
        self._found = set[int]()
        self._missing = list[int]()
        self._sent = 0
        self._works = list[dist.Work]()
        self._is_last = False
        self.hooks: list[RemovableHandle] = [
            _call_after(parameter, self._hook(number))
            for number, parameter in enumerate(gradients.parameters)
        ]

    def begin(self) -> None:
        """Attach the gradients; the tail stays as it is."""
        self.gradients.attach()
        self._found.clear()
        self._is_last = False

    def last_pass(self) -> None:
        """From now on what is found is whole."""
        self._missing = [last - first for first, last in self.buckets]
        self._sent, self._is_last = 0, True

    def finish(self) -> None:
        """Send what is left, with the tail, and wait; what no pass had a gradient of has none."""
        self._is_last = False
        while self._sent < len(self.buckets):
            self._send()
        for work in self._works:
            work.wait()
        self._works.clear()
        self.drop_unfound()

    def finish_at_once(self) -> None:
        """The same of gradients that none was sent of: after a replay, in which no hook runs."""
        for parameter, view in zip(self.gradients.parameters, self.gradients.views, strict=True):
            parameter.grad = view
        self._sent = 0
        self.finish()

    def drop_unfound(self) -> None:
        """Take the gradient from parameters that have none, as without a buffer."""
        for number, parameter in enumerate(self.gradients.parameters):
            if number not in self._found:
                parameter.grad = None

    def _hook(self, number: int) -> Callable[[Tensor], None]:
        def found(_: Tensor) -> None:
            self._found.add(number)
            if not self._is_last:
                return
            self._missing[self._bucket_of[number]] -= 1
            while self._sent < len(self.buckets) - 1 and not self._missing[self._sent]:
                self._send()

        return found

    def _send(self) -> None:
        first, last = self.buckets[self._sent]
        starts, flat = self.gradients.starts, self.gradients.flat
        self._sent += 1
        if self.group is None:
            return
        end = len(flat) if self._sent == len(self.buckets) else starts[last]
        work = dist.all_reduce(flat[starts[first] : end], group=self.group, async_op=True)
        assert work is not None  # this process belongs to the group
        self._works.append(work)


def _call_after(parameter: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
    handle = parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
    assert isinstance(handle, RemovableHandle)
    return handle


def _bucket_ranges(gradients: FlatGradients, bucket_bytes: int) -> list[tuple[int, int]]:
    """First parameter and the one after the last of each bucket."""
    size, cuts = gradients.flat.element_size(), [0]
    for number in range(len(gradients.parameters)):
        if (gradients.starts[number + 1] - gradients.starts[cuts[-1]]) * size > bucket_bytes:
            cuts.append(number)
    cuts = sorted({*cuts, len(gradients.parameters)})
    return list(pairwise(cuts))
