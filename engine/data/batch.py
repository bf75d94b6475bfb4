"""What sources take and give. B: rows of a batch. C: channels. H W: pixels of a crop or frame."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernels.crop_resize import Frames


@dataclass(frozen=True, eq=False)
class Draws:
    """Which samples a batch holds and how each is cropped, mirrored and lit; B rows.

    Parts of different lengths are a ValueError.
    """

    index: NDArray[np.int64]
    """(B,) position of the sample in its split."""
    box: NDArray[np.float64]
    """(B, 4) top, left, height, width in pixels of the frame; may reach outside it."""
    flip: NDArray[np.bool_]
    """(B,) mirrored left to right."""
    light: NDArray[np.float32]
    """(B, 2) gain and shift: image' = clip(gain * image + 255 * shift, 0, 255)."""
    colour: NDArray[np.float64] | None = None
    """(B, 2) then: the hue's turn, 1 is a full circle, and the saturation's gain; None = none."""
    hidden: NDArray[np.bool_] | None = None
    """(B,) no depth is shown to the network; None = in no row."""

    def at(self, rows: slice) -> "Draws":
        """Some of the rows."""
        return Draws(
            self.index[rows],
            self.box[rows],
            self.flip[rows],
            self.light[rows],
            None if self.colour is None else self.colour[rows],
            None if self.hidden is None else self.hidden[rows],
        )

    def __post_init__(self) -> None:
        parts = self.index, self.box, self.flip, self.light, self.colour, self.hidden
        rows = [len(part) for part in parts if part is not None]
        if len(set(rows)) > 1:
            raise ValueError(f"index, box, flip and light must have a row a sample, got {rows}")


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input and targets, on the source's device."""

    image_BCHW: Tensor
    """(B, C, H, W), channels-last: normalised RGB (and inverse depth, derived channels). Float32,
    or bfloat16 where a network's first layer would round it to that."""
    depth_BHW: Tensor
    """(B, H, W) float32 metres, 0 = missing; all 0 if the dataset has no depth."""
    label_BHW: Tensor
    """(B, H, W) uint8, 255 = ignore; all 255 if the samples have no labels."""
    index: NDArray[np.int64]
    """(B,) which samples they are."""


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """Whole frames of one size, as decoded, or windows of one size in such frames."""

    first: int
    """Position of the first frame in the sequence that was asked for."""
    hw: tuple[int, int]
    """Height and width of the frames, or of what windows are looked at as, pixels."""
    frames: Frames
    """They, and perhaps others."""
    index: NDArray[np.int64]
    """(B,) which of them."""
    label_BHW: Tensor | None
    """(B, H, W) uint8, 255 = ignore; None without labels."""
    box_B4: NDArray[np.float64] | None = None
    """(B, 4) top, left, height and width of each window, in pixels of the frame; None = frames."""


class Source(Protocol):
    """Whatever turns draws into batches."""

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """One batch for each of `draws`, none of which has more rows than the first, in order.

        Where files are read, the next batches are in preparation; closing the iterator early ends
        its threads. Raises RuntimeError, with the sample's stem, for a file that cannot be read.
        """
        ...
