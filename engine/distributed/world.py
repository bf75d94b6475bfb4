"""The processes of one training, as torchrun started them: the first leads, the others follow.

Axes: G processes, N rows.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from engine.config import Config, RuntimeConfig
from engine.mistakes import ConfigError

_log = logging.getLogger(__name__)

PATIENCE = timedelta(minutes=30)
"""How long a process waits within a step for another that lives: it may be writing to a slow disk.
One that is dead is noticed at once, by its connection."""

_LOOK_S = 0.05
"""Seconds between two looks for what the first process wants done."""

_Group = dist.ProcessGroup | None


@dataclass(frozen=True, eq=False)
class World:
    """The processes, and which of them this is."""

    rank: int = 0
    size: int = 1
    group: _Group = None
    """for tensors of the device that trains: gloo's on a CPU, NCCL's on a GPU; None = one process
    """
    host: _Group = None
    """for tensors of the CPU: gloo's"""
    store: Store | None = None
    """what the first process tells the others, by key"""
    _orders: list[int] = field(default_factory=lambda: [0])

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> range:
        """Which of `count` parts, in order, a process computes; this one, by default."""
        rank = self.rank if rank is None else rank
        return range(count * rank // self.size, count * (rank + 1) // self.size)

    def any(self, here: bool) -> bool:
        """Whether it holds for any process; all ask at once, and a GPU is not waited for."""
        if self.size == 1:
            return here
        held = torch.tensor([int(here)])
        dist.all_reduce(held, dist.ReduceOp.MAX, self.host)
        return bool(held)

    def gather(self, rows: Tensor, counts: Sequence[int], group: _Group = None) -> Tensor:
        """(N, ...) rows of all processes, in their order; each has `counts[rank]` of them.

        By `group`, by default that of the rows' device.
        """
        if self.size == 1:
            return rows
        if group is None:
            group = self.host if rows.device.type == "cpu" else self.group
        most = max(counts)
        sent = rows.new_zeros(most, *rows.shape[1:])
        sent[: len(rows)] = rows
        got = rows.new_empty(self.size * most, *rows.shape[1:])
        gather_into(got, sent, group)
        return torch.cat([got[at * most : at * most + count] for at, count in enumerate(counts)])

    def check_same(self, what: str, digest: int) -> None:
        """Refuse, by a RuntimeError on all, to go on where a digest differs among them."""
        found = self.gather(torch.tensor([digest]), [1] * self.size).tolist()
        if others := [rank for rank, each in enumerate(found) if each != found[0]]:
            raise RuntimeError(
                f"{what} of process {others[0]} are others than those of the first one; all need "
                "the same files, and the same versions of PyTorch and timm"
            )

    def order(self, text: str) -> None:
        """Tell the others what comes next; by the first process."""
        if self.store is not None:
            self.store.set(f"order/{self._orders[0]}", text)
            self._orders[0] += 1

    def orders(self) -> Iterator[str]:
        """What the first process tells, one after the other, until it says nothing ("").

        Waits for as long as it takes: that process may be reading a dataset, or writing a report.
        """
        assert self.store is not None, "several processes"
        while True:
            key = f"order/{self._orders[0]}"
            while not self.store.check([key]):
                time.sleep(_LOOK_S)
            text = self.store.get(key).decode()
            self._orders[0] += 1
            if not text:
                return
            yield text


def gather_into(all_N: Tensor, here_S: Tensor, group: _Group) -> None:
    """Fill `all_N` with what each process has, in their order, all of one size."""
    # Renamed in PyTorch 2.14, which warns of the older name.
    newer = getattr(dist, "all_gather_single", None)
    (newer or dist.all_gather_into_tensor)(all_N, here_S, group=group)


@contextmanager
def leading(config: Config) -> Iterator[World]:
    """`open_world` of the first process, which says so, and in the end sends the others home."""
    with open_world(config.runtime) as world:
        told = "%d processes share the %d parts of a batch, each on %d CPU threads%s"
        why = "" if config.runtime.threads else "; runtime.threads = N gives each N"
        threads = config.runtime.threads or torch.get_num_threads()
        _log.info(told, world.size, config.training.parts, threads, why)
        yield world
        world.order("")


@contextmanager
def open_world(runtime: RuntimeConfig) -> Iterator[World]:
    """Meet the other processes that torchrun started, by the environment that it sets.

    On a GPU each process takes the one of its number on its host, which is "cuda" from here on.

    Raises:
        ConfigError: a GPU is named, or a host has fewer than processes.
        RuntimeError: the others cannot be reached.
    """
    on_gpu = runtime.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _take_gpu(runtime.device)
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    own = PrefixStore("roomsmith", store)
    dist.init_process_group(
        "gloo", store=PrefixStore("gloo", store), rank=rank, world_size=size, timeout=PATIENCE
    )
    host = dist.distributed_c10d._get_default_group()
    made = dist.new_group(backend="nccl", timeout=PATIENCE) if on_gpu else host
    assert isinstance(made, dist.ProcessGroup), "this process is in it"
    world = World(rank, size, made, host, own)
    yield world
    # The first process may be who keeps the store: it goes last, or with all others.
    world.any(here=True)
    # Not after an error, which ends the process: it would wait for what nobody answers.
    dist.destroy_process_group()


def _take_gpu(device: str) -> None:
    if ":" in device:
        raise ConfigError(
            f"runtime.device = {device!r} names one GPU, and each process takes its own; use cuda"
        )
    number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= count:
        raise ConfigError(
            f"this host has {count} GPUs, and more processes; type --nproc-per-node {count}"
        )
    torch.cuda.set_device(number)
