"""Whole frames at the size of a view: what validation, OOF and prediction feed the network.

Axes: B batch, C channel, H W pixels.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data.batch import network_input
from engine.data.decode import Frame, read_frame
from engine.data.index import Sample
from engine.normalisation import Normalisation

VIEW_MULTIPLE = 32
"""The encoder's coarsest stride: a view's sides are multiples of it."""


@dataclass(frozen=True)
class FrameBatch:
    """Frames of one size, as decoded.

    Attributes:
        first: position of the first frame in the sequence that was asked for.
        image_BCHW: (B, 3, H, W) uint8.
        depth_BHW: (B, H, W) float32 metres, 0 = missing; None without depth.
        label_BHW: (B, H, W) uint8, 255 = ignore; None without labels.
    """

    first: int
    image_BCHW: Tensor
    depth_BHW: Tensor | None
    label_BHW: Tensor | None

    def __len__(self) -> int:
        return len(self.image_BCHW)

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the frames, pixels."""
        return self.image_BCHW.shape[2], self.image_BCHW.shape[3]


def frame_batches(
    samples: Sequence[Sample],
    batch_size: int,
    device: torch.device,
    *,
    depth: bool,
    label: bool,
    workers: int,
    start: int = 0,
) -> Iterator[FrameBatch]:
    """Decode `samples[start:]` in order, in batches of equal frame size, a batch ahead of use.

    Args:
        samples: frames to read.
        batch_size: frames a batch at most.
        device: where the batches go.
        depth: read the depth maps too.
        label: read the labels too.
        workers: decoding threads.
        start: frames to pass over.

    Raises:
        RuntimeError: a file cannot be read; the message names it.
    """
    groups = equal_size_groups(samples, batch_size, start)

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
    frames: FrameBatch, hw: tuple[int, int], normalisation: Normalisation, in_channels: int
) -> Tensor:
    """The frames as network input of size `hw`: image bilinear, depth nearest.

    Returns:
        (B, in_channels, hw) float32, channels-last, normalised.
    """
    image_BCHW = F.interpolate(
        frames.image_BCHW.to(torch.float32), size=hw, mode="bilinear", align_corners=False
    )
    depth_BHW = None
    if frames.depth_BHW is not None:
        depth_BHW = F.interpolate(frames.depth_BHW[:, None], size=hw, mode="nearest-exact")[:, 0]
    return network_input(image_BCHW, depth_BHW, normalisation, in_channels)


def _stack(first: int, frames: Sequence[Frame], device: torch.device) -> FrameBatch:
    def stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(present).to(device) if len(present) == len(frames) else None

    image_BCHW = stacked([frame.image_CHW for frame in frames])
    assert image_BCHW is not None
    return FrameBatch(
        first,
        image_BCHW,
        stacked([frame.depth_HW for frame in frames]),
        stacked([frame.label_HW for frame in frames]),
    )
