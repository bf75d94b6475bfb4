"""Frames in batches: crops by draws to train on, whole frames in order to look at.

Sources of crops: `resident` keeps decoded frames on the device and crops them by a fused operation;
`dali` lets NVIDIA DALI decode and crop; `torch` is the reference, in plain PyTorch. For the same
draws all give the same labels and depths, and images within rounding.

B: rows of a batch. C: channels. H W: pixels of a crop, or of a frame. N: frames of a split.
"""

import functools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import RuntimeConfig
from engine.data.inputs import CropResize, Draws, InputSpec, crop_frames
from engine.frames.cache import GIB, Layout, cache_folder, open_frames
from engine.frames.decode import Sample, in_order, read_frame
from engine.runtime.device import DevicePolicy, total_bytes
from kernels.crop_resize import Frames

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input and targets, on the source's device."""

    image_BCHW: Tensor
    """(B, C, H, W) float32, channels-last: normalised RGB (and inverse depth)."""
    depth_BHW: Tensor
    """(B, H, W) float32 metres as stored, 0 = missing; all 0 if the dataset has no depth."""
    label_BHW: Tensor
    """(B, H, W) uint8, 255 = ignore; all 255 if the samples have no labels."""
    index: NDArray[np.int64]
    """(B,) which samples they are."""


class Source(Protocol):
    """Whatever turns draws into batches."""

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """One batch for each of `draws`, none of which has more rows than the first, in order.

        Where files are read, the next batches are in preparation; closing the iterator early ends
        its threads. Raises RuntimeError, with the sample's stem, for a file that cannot be read.
        """
        ...


def make_source(
    samples: Sequence[Sample],
    crop_hw: tuple[int, int],
    spec: InputSpec,
    policy: DevicePolicy,
    runtime: RuntimeConfig,
) -> Source:
    """Make a source of crops; `auto` takes the first that fits of `resident`, `dali`, `torch`.

    Args:
        samples: the split that `Draws.index` counts in; all or none with depth, as with labels.
        crop_hw: size of the crops, pixels.
        spec: of the network's input.
        policy: where the batches are made and which crop operation `resident` calls.
        runtime: its `source`, `workers` (decoding threads) and `cache`.

    Raises:
        ValueError: only some samples have a depth or label file, or none has the needed depth.
        RuntimeError: `dali` cannot be imported, or `resident` cannot read a file or has no room.
    """
    device, workers, count = policy.device, runtime.workers, len(samples)
    for kind in ("depth", "label"):
        have = sum(kind in sample.present for sample in samples)
        if have not in (0, count):
            raise ValueError(f"{have} of {count} samples have a {kind} file; need all or none")
    if spec.has_depth and any(sample.depth is None for sample in samples):
        raise ValueError(
            "4 input channels need depth, but the dataset has no depth maps; use 'rgb'"
        )
    chosen, why = choose_source(runtime, samples, device)
    _announce(chosen, why, str(device), workers)
    if chosen == "resident":
        resident = open_resident(samples, device, cache_folder(runtime.cache), workers)
        return ResidentSource(resident, crop_hw, spec, policy.operations.crop_resize)
    from engine.data.file_source import file_source

    return file_source(chosen)(samples, crop_hw, spec, device, workers)


def choose_source(
    runtime: RuntimeConfig, samples: Sequence[Sample], device: torch.device
) -> tuple[str, str]:
    """Which source runs, and why; RuntimeError if it is `dali` and that cannot be imported.

    It does not depend on what else is running: a run goes on with the source that it began with.
    """
    need, limit = sum(Layout(samples).sizes.values()), resident_limit(runtime, device)
    if need <= limit:
        return "resident", "the decoded frames fit" if runtime.source == "auto" else "as configured"
    from engine.data.file_source import choose_file_source

    return choose_file_source(runtime, device, need, limit)


def resident_limit(runtime: RuntimeConfig, device: torch.device) -> int:
    """Bytes of decoded frames that may stay on the device; 0 if each batch is decoded anew.

    By default half of a CPU's memory, because the rest of the engine needs some and pages of a
    mapping that does not fit are read again each epoch; a quarter of a GPU's, which the network
    needs.
    """
    if runtime.source != "auto":
        return sys.maxsize if runtime.source == "resident" else 0
    if runtime.memory_gib:
        return int(runtime.memory_gib * GIB)
    return total_bytes(device) // (4 if device.type == "cuda" else 2)


@dataclass(frozen=True, eq=False)
class ResidentFrames:
    """The N decoded frames of a split, on one device."""

    frames: Frames
    offset_N: NDArray[np.int64]
    """(N,) first pixel of each, also on the host."""
    position: dict[Sample, int]
    """Where each sample is among the N."""

    @classmethod
    def on(
        cls, device: torch.device, frames: Frames, samples: Sequence[Sample]
    ) -> "ResidentFrames":
        """Put the frames of samples, which are on the CPU, on a device."""
        offset_N = frames.offset_N.numpy()
        if device.type != "cpu":
            parts = (None if part is None else part.to(device) for part in frames)
            frames = Frames(*parts)  # type: ignore[arg-type]
        return cls(frames, offset_N, {sample: number for number, sample in enumerate(samples)})


def open_resident(
    samples: Sequence[Sample], device: torch.device, folder: Path, workers: int
) -> ResidentFrames:
    """The frames of `open_frames`, whose arguments and errors these are, on the device."""
    memory = total_bytes(torch.device("cpu")) // 2
    return ResidentFrames.on(device, open_frames(samples, folder, workers, memory), samples)


@dataclass(frozen=True, eq=False)
class ResidentSource:
    """Crops of frames that stay on the device, made when they are asked for.

    On a GPU that is a kernel launch, which the host does not wait for; on a CPU another thread
    would only take cores from the network.
    """

    resident: ResidentFrames
    crop_hw: tuple[int, int]
    spec: InputSpec
    crop: CropResize

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """See `Source.batches`."""
        frames = self.resident.frames
        for rows in draws:
            yield Batch(*crop_frames(frames, rows, self.crop_hw, self.spec, self.crop), rows.index)


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """Whole frames of one size, as decoded."""

    first: int
    """Position of the first frame in the sequence that was asked for."""
    hw: tuple[int, int]
    """Height and width of the frames, pixels."""
    frames: Frames
    """Buffers that hold them, and perhaps others."""
    index: NDArray[np.int64]
    """(B,) which frames of the buffers they are."""
    label_BHW: Tensor | None
    """(B, H, W) uint8, 255 = ignore; None without labels."""

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class FrameReader:
    """How whole frames are read."""

    device: torch.device
    batch_size: int
    """Frames a batch at most."""
    depth: bool
    """Whether depth maps are taken too."""
    workers: int
    """Decoding threads."""
    resident: ResidentFrames | None = None
    """All frames that will be asked for, on `device`; without them files are decoded, ahead."""

    def batches(
        self, samples: Sequence[Sample], start: int = 0, *, label: bool = False
    ) -> Iterator[FrameBatch]:
        """Take `samples[start:]` in order, in batches of equal frame size, perhaps with labels.

        Raises:
            RuntimeError: a file cannot be read; the message names it.
            KeyError: `resident` does not hold a sample.
        """
        depth = self.depth and all(sample.depth is not None for sample in samples)
        asked = [
            replace(
                sample,
                depth=sample.depth if depth else None,
                label=sample.label if label else None,
            )
            for sample in samples
        ]
        work = in_order(read_frame, asked[start:], self.workers)
        with closing(work) as decoded:  # nothing is, before the first frame is taken
            for first, end in equal_size_groups(samples, self.batch_size, start):
                held = self.resident
                if held is None:
                    frames = Layout(asked[first:end]).hold(islice(decoded, end - first))
                    held = ResidentFrames.on(self.device, frames, samples[first:end])
                yield self._take(held, samples[first:end], first, label)

    def _take(
        self, resident: ResidentFrames, taken: Sequence[Sample], first: int, label: bool
    ) -> FrameBatch:
        # The frames stay where they are; only the labels are brought together.
        index = np.array([resident.position[sample] for sample in taken], np.int64)
        frames = resident.frames if self.depth else resident.frames._replace(depth_P=None)
        (height, width), label_BHW = taken[0].hw, None
        if label and frames.label_P is not None:
            starts = resident.offset_N[index].tolist()
            labels_P = [frames.label_P[start : start + height * width] for start in starts]
            label_BHW = torch.stack(labels_P).view(-1, height, width)
        return FrameBatch(first, (height, width), frames, index, label_BHW)


def equal_size_groups(
    samples: Sequence[Sample], batch_size: int, start: int = 0
) -> list[tuple[int, int]]:
    """(first, end) ranges of at most `batch_size` consecutive samples of one frame size."""
    groups = []
    for _, run in groupby(range(start, len(samples)), lambda number: samples[number].hw):
        while taken := list(islice(run, batch_size)):
            groups.append((taken[0], taken[-1] + 1))
    return groups


@functools.cache
def _announce(kind: str, why: str, device: str, workers: int) -> None:
    _log.info("data source: %s (%s), batches on %s, %d threads", kind, why, device, workers)
