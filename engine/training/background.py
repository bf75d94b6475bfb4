"""The files of a fold on a GPU, written while it trains on.

The full-size state is 1.43 GB and an epoch of it seconds on a fast GPU: writing in between would
take a sixth to a third of the time. On a CPU, where an epoch takes minutes and a snapshot would
double the state in the memory that trains, `engine.training.checkpoint` writes at once.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten

from engine.rundir import RunDir
from engine.training import checkpoint
from engine.training.records import BestNote, Checkpoint, EpochLine


class Files(Protocol):
    """Who writes what a fold leaves: `engine.training.checkpoint`, or a `BackgroundFiles`."""

    @property
    def save_best(self) -> Callable[[Path, Mapping[str, Tensor], BestNote], None]:
        """Write weights and what is said of them."""

    @property
    def write_metrics(self) -> Callable[[Path, Sequence[EpochLine]], None]:
        """Write a line an epoch."""

    @property
    def write_curves(self) -> Callable[[RunDir], None]:
        """Write the table of all folds' lines."""

    @property
    def save_last(self) -> Callable[[Path, Checkpoint], None]:
        """Write a checkpoint, after what was to be written before it."""

    @property
    def finish(self) -> Callable[[], None]:
        """Wait until all files stand."""


class BackgroundFiles:
    """Writes one checkpoint at a time, and what comes before it, on a thread of its own.

    `save_last` takes a snapshot into pinned memory and returns. An error of the thread ends the
    run: the next call of it, or of `finish`, raises it.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        # A new thread is on the first GPU, of which waiting for another might take memory.
        elsewhere = self._on_gpu and device.index is not None
        start = partial(torch.cuda.set_device, device) if elsewhere else None
        self._thread = ThreadPoolExecutor(1, "checkpoint", start)
        self._writing: Future[None] | None = None
        self._before: list[Callable[[Checkpoint], None]] = []
        self._form: TreeSpec | None = None
        self._copies: list[Tensor] = []

    def save_best(self, path: Path, weights: Mapping[str, Tensor], note: BestNote) -> None:
        """Have the average written before the next checkpoint, which holds these `weights` too."""
        assert weights, "the checkpoint's own"
        self._before.append(lambda saved: checkpoint.save_best(path, saved.content["ema"], note))

    def write_metrics(self, path: Path, lines: Sequence[EpochLine]) -> None:
        """Have these lines written before the next checkpoint."""
        written = tuple(lines)
        self._before.append(lambda _: checkpoint.write_metrics(path, written))

    def write_curves(self, run: RunDir) -> None:
        """Have the table of all folds' lines written after them."""
        self._before.append(lambda _: checkpoint.write_curves(run))

    def save_last(self, path: Path, saved: Checkpoint) -> None:
        """Have all that waits, and then what `saved` holds now, written; see `finish`."""
        # The snapshot's memory is used again, so never are two on their way.
        self.finish()
        acts, self._before = self._before, []
        leaves, form = tree_flatten(saved.content)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if form != self._form:
            self._form, pin = form, self._on_gpu
            self._copies = [torch.empty_like(t, device="cpu", pin_memory=pin) for t in tensors]
        for held, tensor in zip(self._copies, tensors, strict=True):
            held.copy_(tensor, non_blocking=True)
        # On the stream that trains: the next step, which changes the tensors, comes after them.
        copied: torch.cuda.Event | None = None
        if self._on_gpu:
            copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            copied.record()
        # All as it was, but for the tensors, which are taken as copied already.
        known = {id(tensor): held for tensor, held in zip(tensors, self._copies, strict=True)}
        snapshot = Checkpoint(saved.position, copy.deepcopy(saved.content, known))

        def write() -> None:
            if copied is not None:
                copied.synchronize()
            for act in acts:
                act(snapshot)
            checkpoint.save_last(path, snapshot)

        self._writing = self._thread.submit(write)

    def finish(self) -> None:
        """Wait until all that was saved is written; raises what kept a file from it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
