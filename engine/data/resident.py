"""Frames decoded once that stay on the device, and crops of them by one operation.

B: rows of a batch. N: frames of the split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.augment import Draws
from engine.data.inputs import InputSpec
from engine.frames.cache import frame_bytes, open_frames
from engine.frames.listing import Sample
from engine.runtime.environment import total_bytes
from kernels.crop_resize import Crops, Encoding, Frames

CropResize = Callable[[Frames, Tensor, tuple[int, int], Encoding], Crops]
"""`kernels.crop_resize.crop_resize`, or its reference."""

_GIB = 1 << 30


@dataclass(frozen=True, eq=False)
class ResidentFrames:
    """The decoded frames of a split, on one device."""

    samples: tuple[Sample, ...]
    frames: Frames
    """N frames in the samples' order."""
    offset_N: NDArray[np.int64]
    """(N,) first pixel of each, also on the host."""

    @cached_property
    def position(self) -> dict[Sample, int]:
        """Where each sample is among the N."""
        return {sample: number for number, sample in enumerate(self.samples)}


def crop_frames(
    frames: Frames, draws: Draws, crop_hw: tuple[int, int], spec: InputSpec, crop: CropResize
) -> Crops:
    """Crops of frames by the engine's own draws, depth range and normalisation.

    Args:
        frames: on any device.
        draws: B rows; `Draws.index` counts in `frames`.
        crop_hw: size of the crops, pixels.
        spec: of the network's input.
        crop: the operation.

    Returns:
        Float32 crops on the frames' device; no host synchronisation.

    Raises:
        ValueError: four channels without depth, or a sample out of range.
    """
    if len(draws) and not 0 <= draws.index.min() <= draws.index.max() < len(frames.offset_N):
        raise ValueError(
            f"samples must be in [0, {len(frames.offset_N)}), got "
            f"{draws.index.min()}..{draws.index.max()}"
        )
    rgb = spec.normalisation
    crops = crop(
        frames,
        to_device(torch.from_numpy(draws.table()), frames.image_P3.device),
        crop_hw,
        Encoding(rgb.mean, rgb.std, spec.depth_range_m, spec.channels),
    )
    return crops._replace(image_BChw=spec.complete(crops.image_BChw, crops.depth_Bhw))


def open_resident(
    samples: Sequence[Sample], device: torch.device, folder: Path, workers: int
) -> ResidentFrames:
    """Decode the samples, or map them from the cache, and put them on the device.

    Args:
        samples: a split; all with depth or none, all with labels or none.
        device: where they stay.
        folder: of the cache, see `engine.frames.cache`.
        workers: decoding threads.

    Raises:
        RuntimeError: a file cannot be read, or there is no room for the frames.
    """
    frames = open_frames(samples, folder, workers, memory=memory_limit(torch.device("cpu"), 0.0))
    offset_N = frames.offset_N.numpy()
    if device.type != "cpu":
        frames = Frames(*(None if part is None else part.to(device) for part in frames))  # type: ignore[arg-type]
    return ResidentFrames(tuple(samples), frames, offset_N)


def misfit(samples: Sequence[Sample], device: torch.device, memory_gib: float) -> str | None:
    """Why the decoded samples should not stay on the device; None if they fit.

    The limits do not depend on what else is running, so that a run goes on with the source that it
    began with: half of the memory, because the rest of the engine needs some and pages of a mapping
    that does not fit are read again each epoch; a quarter of a GPU's, which the network needs.
    """
    need, limit = frame_bytes(samples), memory_limit(device, memory_gib)
    if need <= limit:
        return None
    share = "half of the memory" if device.type == "cpu" else "a quarter of the GPU's memory"
    if memory_gib:
        share = "runtime.memory_gib"
    return f"{need / _GIB:.1f} GiB of decoded frames exceed {limit / _GIB:.1f} GiB, {share}"


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor to the device without waiting for what runs there."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def memory_limit(device: torch.device, memory_gib: float) -> int:
    """Bytes of decoded frames that may stay on a device: `memory_gib` if given, or see `misfit`."""
    if memory_gib:
        return int(memory_gib * _GIB)
    return total_bytes(device) // (4 if device.type == "cuda" else 2)
