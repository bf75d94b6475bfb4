"""Whole frames at the size of a view: what validation, OOF and prediction feed the network.

Axes: B batch, C channel, N frames of a buffer, H W pixels.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.augment import whole_frame_draws
from engine.data.normalisation import Normalisation
from engine.data.resident_source import CropResize, ResidentFrames, crop_frames
from engine.frames.decode import Frame, read_frame
from engine.frames.index import Sample
from kernels.crop_resize import Frames, crop_resize

VIEW_MULTIPLE = 32
"""The encoder's coarsest stride: a view's sides are multiples of it."""


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """Frames of one size, as decoded.

    Attributes:
        first: position of the first frame in the sequence that was asked for.
        hw: height and width of the frames, pixels.
        frames: buffers that hold them, and perhaps others.
        index: (B,) int64, which frames of the buffers they are.
        label_BHW: (B, H, W) uint8, 255 = ignore; None without labels.
    """

    first: int
    hw: tuple[int, int]
    frames: Frames
    index: NDArray[np.int64]
    label_BHW: Tensor | None

    def __len__(self) -> int:
        return len(self.index)


def frame_batches(
    samples: Sequence[Sample],
    batch_size: int,
    device: torch.device,
    *,
    depth: bool,
    label: bool,
    workers: int,
    start: int = 0,
    resident: ResidentFrames | None = None,
) -> Iterator[FrameBatch]:
    """Take `samples[start:]` in order, in batches of equal frame size.

    Args:
        samples: frames to take.
        batch_size: frames a batch at most.
        device: where the batches go.
        depth: take the depth maps too.
        label: take the labels too.
        workers: decoding threads.
        start: frames to pass over.
        resident: decoded frames that hold all of `samples`, on `device`; without them the files are
            decoded, a batch ahead of use.

    Raises:
        RuntimeError: a file cannot be read; the message names it.
        KeyError: `resident` does not hold a sample.
    """
    groups = equal_size_groups(samples, batch_size, start)
    if resident is not None:
        yield from (_take(samples, group, resident, depth, label) for group in groups)
        return

    def read(sample: Sample) -> Frame:
        return read_frame(sample if depth else replace(sample, depth=None), label=label)

    with ThreadPoolExecutor(workers) as pool:
        ahead = [pool.submit(read, samples[i]) for i in range(*groups[0])] if groups else []
        for position, (first, _) in enumerate(groups):
            frames = [future.result() for future in ahead]
            following = range(*groups[position + 1]) if position + 1 < len(groups) else range(0)
            ahead = [pool.submit(read, samples[i]) for i in following]
            yield _stack(first, frames, device)


def equal_size_groups(
    samples: Sequence[Sample], batch_size: int, start: int = 0
) -> list[tuple[int, int]]:
    """(first, last) ranges of at most `batch_size` consecutive samples of one frame size."""
    groups: list[tuple[int, int]] = []
    first = start
    for i in range(start, len(samples)):
        if i > first and (samples[i].hw != samples[first].hw or i - first == batch_size):
            groups.append((first, i))
            first = i
    if first < len(samples):
        groups.append((first, len(samples)))
    return groups


def view_hw(base_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """floor(base * scale / 32) * 32 in each direction, at least 32."""
    height, width = (
        max(int(side * scale + 1e-6) // VIEW_MULTIPLE, 1) * VIEW_MULTIPLE for side in base_hw
    )
    return height, width


def view_input(
    frames: FrameBatch,
    hw: tuple[int, int],
    normalisation: Normalisation,
    in_channels: int,
    crop: CropResize = crop_resize,
) -> Tensor:
    """The frames as network input of size `hw`: image bilinear, depth nearest.

    Returns:
        (B, in_channels, hw) float32, channels-last, normalised.
    """
    hw_N2 = np.tile(np.array(frames.hw, np.int64), (len(frames.frames.offset_N), 1))
    draws = whole_frame_draws(frames.index, hw_N2)
    return crop_frames(frames.frames, draws, hw, normalisation, in_channels, crop).image_BChw


def _take(
    samples: Sequence[Sample],
    group: tuple[int, int],
    resident: ResidentFrames,
    depth: bool,
    label: bool,
) -> FrameBatch:
    """A batch that stays where it is; only its labels are brought together."""
    taken = samples[slice(*group)]
    index = np.array([resident.position[sample] for sample in taken], np.int64)
    frames = resident.frames if depth else resident.frames._replace(depth_P=None)
    label_BHW = None
    if label and frames.label_P is not None:
        (height, width), offset_N = taken[0].hw, resident.offset_N
        label_BHW = torch.stack(
            [
                frames.label_P[first : first + height * width].view(height, width)
                for first in offset_N[index].tolist()
            ]
        )
    return FrameBatch(group[0], taken[0].hw, frames, index, label_BHW)


def _stack(first: int, frames: Sequence[Frame], device: torch.device) -> FrameBatch:
    def stacked(maps: Sequence[Tensor | None]) -> Tensor | None:
        present = [part for part in maps if part is not None]
        return torch.stack(present).to(device) if len(present) == len(frames) else None

    image_BHW3 = stacked([frame.image_HW3 for frame in frames])
    assert image_BHW3 is not None
    depth_BHW = stacked([frame.depth_HW for frame in frames])
    label_BHW = stacked([frame.label_HW for frame in frames])
    batch, height, width = image_BHW3.shape[:3]
    buffers = Frames(
        image_BHW3.view(-1, 3),
        None if depth_BHW is None else depth_BHW.view(-1),
        None if label_BHW is None else label_BHW.view(-1),
        torch.arange(batch, device=device) * (height * width),
        torch.tensor([[height, width]]).expand(batch, 2).contiguous().to(device),
    )
    return FrameBatch(first, (height, width), buffers, np.arange(batch), label_BHW)
