"""Class masks of frames by whatever has probabilities of them: a run, several, tiles of either.

Axes: B batch, C class, h w probabilities, H W pixels of a frame.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.data.batch import FrameBatch
from engine.data.sources import FrameReader
from engine.frames.decode import Sample
from engine.runtime.device import DevicePolicy
from engine.views.behind import fetch


class Rows(NamedTuple):
    """The probabilities of some rows of frames: of all, unless frames are looked at in tiles."""

    prob_BChw: Tensor
    """(B, C, h, w) float32, on the device, of a size of its own."""
    hw: tuple[int, int]
    """Number of rows, and of columns, that they are brought to, bilinear: pixels of the frame."""

    def at_size(self) -> Tensor:
        """(B, C, *hw) float32."""
        if self.prob_BChw.shape[2:] == self.hw:
            return self.prob_BChw
        return F.interpolate(self.prob_BChw, self.hw, mode="bilinear", align_corners=False)


class System(Protocol):
    """What has class probabilities of frames: `Predictor`, `Mixture` or `Tiled`."""

    @property
    def policy(self) -> DevicePolicy:
        """Where they are computed."""
        ...

    @property
    def reader(self) -> FrameReader:
        """How frames are read for it."""
        ...

    def rows(self, frames: FrameBatch) -> Iterator[Rows]:
        """The rows of the frames from the top to the last; what was yielded may be overwritten."""
        ...


def masks(
    system: System, samples: Sequence[Sample], start: int = 0
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield a batch's first position and (B, H, W) classes at frame size, of `samples[start:]`."""
    for (mask_BHW,), _ in fetch(system.policy.device, found_masks(system, samples, start)):
        yield start, mask_BHW.numpy()
        start += len(mask_BHW)


def found_masks(
    system: System, samples: Sequence[Sample], start: int, turn: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Tensor, ...]]:
    """Yield each batch's (B, H, W) uint8 classes, on its device; by `turn`, as batches are read."""
    argmax = system.policy.operations.resized_argmax
    for frames in system.reader.batches(samples, start, turn=turn):
        yield (torch.cat([argmax(*rows) for rows in system.rows(frames)], dim=1),)
