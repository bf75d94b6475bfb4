"""Frames that a teacher labels, behind the labelled ones in each batch of training.

In draws and batches that hold both, sample N + j is frame j of the M that a teacher labels, where
the split has N labelled ones; their rows come last.

B: rows of a batch. M: frames that a teacher labels. P: pixels of all of them.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import DataConfig, RuntimeConfig
from engine.data.batch import Batch, Draws, Source
from engine.data.inputs import InputSpec, draw, epoch_order, upload
from engine.data.sources import ResidentSource, choose_source, make_source
from engine.frames.decode import Sample, in_order, read_label
from engine.frames.samples import hw_of
from engine.runtime.device import DevicePolicy

_KEY = 1 << 127
"""The bit of a seed that tells the draws of unlabelled frames from those of labelled ones."""


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """The M frames that a teacher labels, and what it made of them."""

    frames: Sequence[Sample]
    """As the dataset has them, but for any label that it has."""
    labels: Sequence[Path]
    """8-bit grey PNGs of the frames' sizes, class indices, 255 = ignore."""
    small_pixels: Sequence[NDArray[np.int32]]
    """M arrays (K, 2): row and column of some pixels of the small classes."""
    behind: int
    """Number of labelled frames, N."""

    @functools.cached_property
    def samples(self) -> list[Sample]:
        """The frames with these labels."""
        # Those hold classes, whatever the dataset's files hold; and no digest tells of them.
        return [
            replace(one, label=label, reading=replace(one.reading, labels=()), digest="")
            for one, label in zip(self.frames, self.labels, strict=True)
        ]


def with_unlabelled(
    rows: Draws, data: DataConfig, frames: Unlabelled, *, seed: int, first: int, count: int
) -> Draws:
    """Draws of labelled rows, and behind them `count` of unlabelled frames.

    These come in rounds, each a permutation of all, and a round goes on from one epoch to the next.
    Order and augmentation are a pure function of (seed, round, frame), by a key of their own.

    Args:
        rows: of labelled frames.
        data: what a frame is cropped by, see `engine.data.inputs.draw`.
        frames: the M unlabelled ones.
        seed: of the training.
        first: unlabelled rows of all steps of the fold before this one.
        count: those of this one.
    """
    key, total, place_B = seed ^ _KEY, len(frames.frames), np.arange(first, first + count)
    drawn, hw = [rows], hw_of(frames.frames)
    for number in np.unique(place_B // total).tolist():
        order = _order(key, number, total)
        index = order[place_B[place_B // total == number] % total]
        small = frames.small_pixels
        more = draw(data, seed=key, epoch=number, index=index, hw=hw, small_pixels=small)
        drawn.append(replace(more, index=index + frames.behind))
    return _joined(drawn)


@dataclass(frozen=True, eq=False)
class MixedSource:
    """Batches of a source of labelled frames and one of unlabelled frames, row behind row."""

    labelled: Source
    unlabelled: Source
    behind: int
    """Number of labelled frames, N."""
    crop_hw: tuple[int, int]
    """Of both: the sources are made anew for another size than theirs."""

    def __post_init__(self) -> None:
        for name in ("labelled", "unlabelled"):
            source = cast(Any, getattr(self, name))
            if source.crop_hw != self.crop_hw:
                object.__setattr__(self, name, replace(source, crop_hw=self.crop_hw))

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """See `Source.batches`."""
        asked, one, other = tee(draws, 3)
        with ExitStack() as stack:
            labelled, unlabelled = (
                stack.enter_context(closing(cast(Any, source.batches(part))))
                for source, part in (
                    (self.labelled, self._labelled(one)),
                    (self.unlabelled, self._unlabelled(other)),
                )
            )
            for rows in asked:
                known, parts = self._count(rows), list[Batch]()
                # Of several processes one may have rows of one kind only.
                if known:
                    parts.append(next(labelled))
                if known < len(rows.index):
                    parts.append(next(unlabelled))
                yield _together(parts, rows.index)
            # To their ends: what DALI has built serves the next epoch only then.
            for source in (labelled, unlabelled):
                next(source, None)

    def _count(self, rows: Draws) -> int:
        """Labelled rows, which come first."""
        return int((rows.index < self.behind).sum())

    def _labelled(self, draws: Iterable[Draws]) -> Iterator[Draws]:
        for rows in draws:
            if known := self._count(rows):
                yield rows.at(slice(known))

    def _unlabelled(self, draws: Iterable[Draws]) -> Iterator[Draws]:
        for rows in draws:
            if (known := self._count(rows)) < len(rows.index):
                part = rows.at(slice(known, None))
                yield replace(part, index=part.index - self.behind)


def mixed_source(
    samples: Sequence[Sample],
    frames: Unlabelled,
    crop_hw: tuple[int, int],
    spec: InputSpec,
    policy: DevicePolicy,
    runtime: RuntimeConfig,
) -> MixedSource:
    """A source of crops of labelled `samples` and, behind them, of `frames`.

    Both are of one kind, which all frames together choose. Arguments and errors else as of
    `engine.data.sources.make_source`.
    """
    every, surfaces = [*samples, *frames.samples], spec.surface is not None
    kind, _ = choose_source(runtime, every, policy.device, surfaces=surfaces)
    how = crop_hw, spec, policy, runtime.model_copy(update={"source": kind})
    labelled = make_source(samples, *how)
    if kind != "resident":
        return MixedSource(labelled, make_source(frames.samples, *how), frames.behind, crop_hw)
    # Images and depths are those that every fold keeps decoded; the labels are this fold's own.
    bare = make_source(frames.frames, *how)
    assert isinstance(bare, ResidentSource), "as asked for"
    label_P = upload(_labels(frames, runtime.workers), policy.device)
    held = bare.resident
    held = replace(held, frames=held.frames._replace(label_P=label_P))
    return MixedSource(labelled, replace(bare, resident=held), frames.behind, crop_hw)


def _labels(frames: Unlabelled, workers: int) -> Tensor:
    """(P,) uint8 labels, one frame behind another."""
    label_P, end = np.empty(int(hw_of(frames.frames).prod(axis=1).sum()), np.uint8), 0
    with closing(in_order(read_label, frames.samples, workers)) as decoded:
        for label_HW in decoded:
            start, end = end, end + label_HW.size
            label_P[start:end] = label_HW.reshape(-1)
    return torch.from_numpy(label_P)


def _together(parts: Sequence[Batch], index: NDArray[np.int64]) -> Batch:
    """One batch of the rows of one or two."""
    if len(parts) == 1:
        return replace(parts[0], index=index)
    image_BCHW = torch.cat([part.image_BCHW for part in parts])
    return Batch(
        image_BCHW.contiguous(memory_format=torch.channels_last),
        torch.cat([part.depth_BHW for part in parts]),
        torch.cat([part.label_BHW for part in parts]),
        index,
    )


def _joined(parts: Sequence[Draws]) -> Draws:
    """The rows of several draws by one config."""
    colours = [part.colour for part in parts if part.colour is not None]
    hidden = [part.hidden for part in parts if part.hidden is not None]
    return Draws(
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.box for part in parts]),
        np.concatenate([part.flip for part in parts]),
        np.concatenate([part.light for part in parts]),
        np.concatenate(colours) if colours else None,
        np.concatenate(hidden) if hidden else None,
    )


@functools.lru_cache(maxsize=2)  # a step may end one round and begin the next
def _order(key: int, number: int, total: int) -> NDArray[np.int64]:
    """The order of the M unlabelled frames in a round."""
    return epoch_order(key, number, np.arange(total))
