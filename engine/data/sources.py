"""Frames in batches: crops by draws to train on, whole frames in order to look at.

Sources of crops: `resident` keeps decoded frames on the device and crops them by a fused operation;
`dali` lets NVIDIA DALI decode and crop; `torch` is the reference, in plain PyTorch. For draws of
`engine.data.inputs.draw` all give the same labels and depths, and images within rounding.

B: rows of a batch. H W: pixels of a frame. N: frames of a split.
"""

import functools
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby, islice

import numpy as np
import torch
from numpy.typing import NDArray

from engine.config import Config, RuntimeConfig
from engine.data.batch import Batch, Draws, FrameBatch, Source
from engine.data.inputs import CropResize, InputSpec, crop_frames, upload
from engine.frames.cache import GIB, Layout, cache_folder, open_frames
from engine.frames.dataset import Dataset
from engine.frames.decode import Sample, in_order, read_frame
from engine.frames.prune import prune
from engine.frames.samples import count_files, hw_of
from engine.runtime.device import DevicePolicy, total_bytes
from kernels.crop_resize import Frames

_log_once = functools.cache(logging.getLogger(__name__).info)  # however many folds are trained


def make_source(
    samples: Sequence[Sample],
    crop_hw: tuple[int, int],
    spec: InputSpec,
    policy: DevicePolicy,
    runtime: RuntimeConfig,
) -> Source:
    """Make a source of crops of the samples that `Draws.index` counts in, on the policy's device.

    `runtime.source` says which; "auto" takes `resident` where the frames fit, else `dali` or
    `torch`: see `choose_file_source`.

    Raises:
        ValueError: only some samples have a depth or label file, or none has the needed depth.
        RuntimeError: `dali` cannot be imported, or `resident` cannot read a file or has no room.
    """
    device, workers, count = policy.device, runtime.workers, len(samples)
    for kind in ("depth", "label"):
        have = count_files(samples, kind)
        if have not in (0, count):
            raise ValueError(f"{have} of {count} samples have a {kind} file; need all or none")
    if spec.has_depth and count_files(samples, "depth") < count:
        raise ValueError("4 input channels need depth, but the dataset has no maps; use 'rgb'")
    chosen, why = choose_source(runtime, samples, device, surfaces=spec.surface is not None)
    told = "data source: %s (%s), batches on %s, %d threads"
    _log_once(told, chosen, why, device, workers)
    if chosen == "resident":
        memory = total_bytes(torch.device("cpu")) // 2
        folder = cache_folder(runtime.cache)
        frames = open_frames(samples, folder, workers, memory)
        prune(folder, runtime.cache_gib or None, runtime.cache_days or None, wait=False)
        resident = ResidentFrames.on(device, frames, samples)
        crop = policy.operations.crop_resize
        return ResidentSource(resident, crop_hw, spec, crop, policy.input_dtype)
    from engine.data.file_source import file_source

    return file_source(chosen)(samples, crop_hw, spec, device, workers)


def trained_frames(
    config: Config, dataset: Dataset, network: int | None = None
) -> Sequence[Sample]:
    """All that training of a network, or any, reads: labelled frames, then those of a teacher."""
    training = (config if network is None else config.of_network(network)).training
    train = dataset.train.samples
    return [*train, *dataset.test.samples] if training.teacher else train


def choose_source(
    runtime: RuntimeConfig, samples: Sequence[Sample], device: torch.device, *, surfaces: bool
) -> tuple[str, str]:
    """Which source runs, and why; RuntimeError if it is `dali` and that cannot be imported.

    What else is running does not matter: a run goes on with the source that it began with.
    """
    need, limit = resident_bytes(samples, surfaces=surfaces), resident_limit(runtime, device)
    if need <= limit:
        return "resident", "the decoded frames fit" if runtime.source == "auto" else "as configured"
    from engine.data.file_source import choose_file_source

    return choose_file_source(runtime, device, samples, need, limit)


def resident_bytes(samples: Sequence[Sample], *, surfaces: bool) -> int:
    """Bytes of decoded frames and, where a network sees them, of their surfaces."""
    need = sum(Layout(samples).sizes.values())
    if surfaces:
        from engine.data.surface import cells_bytes

        need += sum(cells_bytes(sample.hw) for sample in samples)
    return need


def resident_limit(runtime: RuntimeConfig, device: torch.device) -> int:
    """Bytes of decoded frames that may stay on the device; 0 if each batch is decoded anew.

    Without `runtime.memory_gib` half of a CPU's memory, because the rest of the engine needs some
    and pages of a mapping that does not fit are read again each epoch; a quarter of a GPU's, which
    the network needs.
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
    position: dict[str, int]
    """Where each sample is among the N, by its image."""

    @classmethod
    def on(
        cls, device: torch.device, frames: Frames, samples: Sequence[Sample]
    ) -> "ResidentFrames":
        """Put the pixels of samples' frames, which are on the CPU, on a device."""
        offset_N = frames.offset_N.numpy()
        pixels = [None if part is None else upload(part, device) for part in frames[:3]]
        frames = Frames(*[*pixels, *frames[3:]])  # type: ignore[arg-type]
        return cls(frames, offset_N, _positions(samples))


@dataclass(frozen=True, eq=False)
class ResidentSource:
    """Crops of frames that stay on the device, made when they are asked for.

    On a GPU the host does not wait for that; on a CPU a thread would take cores from the network.
    """

    resident: ResidentFrames
    crop_hw: tuple[int, int]
    spec: InputSpec
    crop: CropResize
    dtype: torch.dtype = torch.float32
    """Of the images; see `crop_frames`."""

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """See `Source.batches`."""
        frames, how = self.resident.frames, (self.crop_hw, self.spec, self.crop, self.dtype)
        for rows in draws:
            yield Batch(*crop_frames(frames, rows, *how), rows.index)


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
    """All frames that will be asked for, on `device`; without them files are decoded, ahead
    by as much as `engine.frames.decode.in_order` says."""
    ahead: int | None = None
    """Frames that may be decoded before they are needed, None = as many as it says."""

    def batches(
        self,
        samples: Sequence[Sample],
        start: int = 0,
        *,
        label: bool = False,
        turn: tuple[int, int] = (0, 1),
    ) -> Iterator[FrameBatch]:
        """Take `samples[start:]` in order, in batches of equal frame size, perhaps with labels.

        With a `turn` (r, n) every n-th batch, from the r-th on: others take the rest.

        Raises:
            RuntimeError: a file cannot be read; the message names it.
            KeyError: `resident` does not hold a sample.
        """
        depth = self.depth and count_files(samples, "depth") == len(samples)

        def asked(part: Sequence[Sample]) -> Iterator[Sample]:
            for one in part:
                kept = one.depth if depth else None, one.label if label else None
                yield replace(one, depth=kept[0], label=kept[1])

        groups = equal_size_groups(samples, self.batch_size, start)[turn[0] :: turn[1]]
        taken = (frame for first, end in groups for frame in asked(samples[first:end]))
        work = in_order(read_frame, taken, self.workers, self.ahead)
        with closing(work) as decoded:  # nothing is, before the first frame is taken
            for first, end in groups:
                held = self.resident
                if held is None:
                    some = [*asked(samples[first:end])]
                    frames = Layout(some).hold(islice(decoded, end - first))
                    held = ResidentFrames.on(self.device, frames, some)
                index = np.array(
                    [held.position[str(one.image)] for one in samples[first:end]], np.int64
                )
                frames = held.frames if self.depth else held.frames._replace(depth_P=None)
                hw, label_BHW = samples[first].hw, None
                # The frames stay where they are; only the labels are brought together.
                if label and frames.label_P is not None:
                    starts, pixels = held.offset_N[index].tolist(), math.prod(hw)
                    labels_P = [frames.label_P[start : start + pixels] for start in starts]
                    label_BHW = torch.stack(labels_P).view(-1, *hw)
                yield FrameBatch(first, hw, frames, index, label_BHW)


def _positions(samples: Sequence[Sample]) -> dict[str, int]:
    return {str(sample.image): number for number, sample in enumerate(samples)}


def equal_size_groups(
    samples: Sequence[Sample], batch_size: int, start: int = 0
) -> list[tuple[int, int]]:
    """(first, end) ranges of at most `batch_size` consecutive samples of one frame size."""
    groups, sizes = [], hw_of(samples).tolist()
    for _, run in groupby(range(start, len(samples)), sizes.__getitem__):
        while taken := list(islice(run, batch_size)):
            groups.append((taken[0], taken[-1] + 1))
    return groups
