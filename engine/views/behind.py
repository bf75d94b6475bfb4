"""Results of a GPU on the host, one batch behind: it computes the next while this one is used."""

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

COMMIT_S = 2.0
"""Seconds of work that a kill may take, which is then done again: a batch may be quicker than its
way to the disk, and the GPU would wait for that."""


def fetch(
    device: torch.device, results: Iterable[tuple[Tensor, ...]]
) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    """Each batch's tensors on the CPU, and whether what was fetched is due to be made durable.

    On a CPU it always is. A GPU does not wait for that: it has been asked for the next batch.
    """
    if device.type != "cuda":
        return ((tensors, True) for tensors in results)
    return fetch_behind(results)


def fetch_behind(
    results: Iterable[tuple[Tensor, ...]], clock_s: Callable[[], float] = time.monotonic
) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    """Copy tensors of a GPU to the CPU; see `fetch`.

    Each batch is yielded, and waited for, when the next has been asked of the GPU. It is time to
    commit at the end, and every `COMMIT_S` seconds before.
    """
    before: tuple[tuple[Tensor, ...], torch.cuda.Event] | None = None
    committed_s = clock_s()
    for tensors in results:
        # Into pinned memory, behind whatever makes them; torch's allocator keeps that memory until
        # it has been written and the copies are dropped.
        copies = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        if before is not None:
            before[1].synchronize()
            now_s = clock_s()
            is_due = now_s - committed_s >= COMMIT_S
            committed_s = now_s if is_due else committed_s
            yield before[0], is_due
        before = copies, copied
    if before is not None:
        before[1].synchronize()
        yield before[0], True
