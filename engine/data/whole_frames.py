"""Whole frames in batches: what validation, out-of-fold and prediction look at.

Axes: B batch, H W pixels, N frames of a buffer.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.resident import ResidentFrames
from engine.frames.decode import Frame, read_frame
from engine.frames.listing import Sample
from kernels.crop_resize import Frames


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


@dataclass(frozen=True)
class FrameReader:
    """How whole frames are read.

    Attributes:
        device: where the batches go.
        batch_size: frames a batch at most.
        depth: whether the depth maps are taken too.
        workers: decoding threads.
        resident: decoded frames that hold all that will be asked for, on `device`; without them
            the files are decoded, a batch ahead of use.
    """

    device: torch.device
    batch_size: int
    depth: bool
    workers: int
    resident: ResidentFrames | None = None

    def batches(
        self, samples: Sequence[Sample], start: int = 0, *, label: bool = False
    ) -> Iterator[FrameBatch]:
        """Take `samples[start:]` in order, in batches of equal frame size, perhaps with labels.

        Raises:
            RuntimeError: a file cannot be read; the message names it.
            KeyError: `resident` does not hold a sample.
        """
        groups = equal_size_groups(samples, self.batch_size, start)
        if not groups:
            return
        if self.resident is not None:
            for first, last in groups:
                yield self._take(self.resident, samples[first:last], first, label)
            return

        def read(sample: Sample) -> Frame:
            return read_frame(sample if self.depth else replace(sample, depth=None), label=label)

        with ThreadPoolExecutor(self.workers) as pool:
            ahead = [pool.submit(read, sample) for sample in samples[slice(*groups[0])]]
            for (first, _), following in zip_longest(groups, groups[1:], fillvalue=(0, 0)):
                frames = [future.result() for future in ahead]
                ahead = [pool.submit(read, sample) for sample in samples[slice(*following)]]
                yield _stack(first, frames, self.device)

    def _take(
        self, resident: ResidentFrames, taken: Sequence[Sample], first: int, label: bool
    ) -> FrameBatch:
        """A batch that stays where it is; only its labels are brought together."""
        index = np.array([resident.position[sample] for sample in taken], np.int64)
        frames = resident.frames if self.depth else resident.frames._replace(depth_P=None)
        label_BHW = None
        if label and frames.label_P is not None:
            (height, width), offset_N = taken[0].hw, resident.offset_N
            label_BHW = torch.stack(
                [
                    frames.label_P[start : start + height * width].view(height, width)
                    for start in offset_N[index].tolist()
                ]
            )
        return FrameBatch(first, taken[0].hw, frames, index, label_BHW)


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


def _stack(first: int, frames: Sequence[Frame], device: torch.device) -> FrameBatch:
    def stacked(maps: Sequence[NDArray[np.generic] | None]) -> Tensor | None:
        present = [torch.from_numpy(part) for part in maps if part is not None]
        return torch.stack(present).to(device) if len(present) == len(frames) else None

    image_BHW3, depth_BHW, label_BHW = (stacked(maps) for maps in zip(*frames, strict=True))
    assert image_BHW3 is not None
    batch, height, width = image_BHW3.shape[:3]
    buffers = Frames(
        image_BHW3.view(-1, 3),
        None if depth_BHW is None else depth_BHW.view(-1),
        None if label_BHW is None else label_BHW.view(-1),
        torch.arange(batch, device=device) * (height * width),
        torch.tensor([[height, width]]).expand(batch, 2).contiguous().to(device),
    )
    return FrameBatch(first, (height, width), buffers, np.arange(batch), label_BHW)
