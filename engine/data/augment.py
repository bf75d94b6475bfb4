"""The augmentation as a table of numbers: every draw is a pure function of (seed, epoch, sample).

The random numbers come from Philox, a counter-based generator (Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3", SC 2011): the seed is its key, (epoch, sample, stream) its counter.
There is no state to save, so a resumed run goes on with the same draws, and a row does not depend
on the batch it is in.

Resizing a frame to `input_hw`, scaling it, cropping it and mirroring it are one box in the frame's
own pixels, hence one resampling. Output pixel i of a side of n samples the frame at
`start + (i + 0.5) * length / n` (pixel centres are at halves), mirrored afterwards.

Boxes lie on a binary grid (`_grid_units`) so that each of these positions is exact in float32 and
never a whole number: whichever arithmetic a source has, it picks the same nearest pixel.

B: rows of a batch. N: samples of a split. K: kept small-class pixels of a frame.
H W: pixels of the crop.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.config import DataConfig

_ROW_STREAM, _ORDER_STREAM = 0, 1
"""Words of the counter that keep a row's numbers and an epoch's order apart."""

_NUMBERS_PER_ROW = 10
"""Random numbers that `draw` reads for a row, whether its probabilities need them or not."""


@dataclass(frozen=True, eq=False)
class Draws:
    """Which samples a batch holds and how each is cropped, mirrored and lit; B rows.

    Raises:
        ValueError: the table has another shape.
    """

    table_B8: NDArray[np.float64]
    """(B, 8) in the order of `kernels.crop_resize.DRAW_COLUMNS`."""

    def __post_init__(self) -> None:
        if self.table_B8.shape[1:] != (8,):
            raise ValueError(f"draws are a table of shape (B, 8), got {self.table_B8.shape}")

    @property
    def index(self) -> NDArray[np.int64]:
        """(B,) position of the sample in its split."""
        return self.table_B8[:, 0].astype(np.int64)

    @property
    def box(self) -> NDArray[np.float64]:
        """(B, 4) top, left, height, width in pixels of the frame; may reach outside it."""
        return self.table_B8[:, 1:5]

    @property
    def flip(self) -> NDArray[np.bool_]:
        """(B,) mirrored left to right."""
        flip: NDArray[np.bool_] = self.table_B8[:, 5] != 0
        return flip

    @property
    def light(self) -> NDArray[np.float32]:
        """(B, 2) gain and shift: image' = clip(gain * image + 255 * shift, 0, 255)."""
        return self.table_B8[:, 6:].astype(np.float32)

    def __len__(self) -> int:
        return len(self.table_B8)

    def __getitem__(self, rows: slice) -> "Draws":
        return Draws(self.table_B8[rows])


def epoch_order(seed: int, epoch: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order in which an epoch, from 0, visits the (N,) samples `index`: a permutation of it.

    Depends on nothing but the arguments; 0 <= seed < 2**128.
    """
    keys = _philox(seed, epoch, 0, _ORDER_STREAM).random_raw(len(index))
    return index[np.argsort(keys, kind="stable")]


def draw(
    config: DataConfig,
    *,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    hw: NDArray[np.int64],
    small_pixels: Sequence[NDArray[np.int32]],
) -> Draws:
    """Draw the augmentation of the samples `index` in one epoch.

    The frame is resized to `config.input_hw` and scaled by s in 1 +- `scale_limit` (probability
    `scale_p`); of the result S x S', a crop of `crop_hw` starts uniformly in
    [min(0, S - crop), max(0, S - crop)], or, with probability `class_aware_p`, is centred on a
    pixel of the small classes as far as that range allows.

    Args:
        config: sizes, limits and probabilities.
        seed: of the run, 0 <= seed < 2**128.
        epoch: from 0.
        index: (B,) int64 samples, each within [0, N).
        hw: (N, 2) int64 height and width of every frame of the split.
        small_pixels: N arrays (K, 2), row and column in the frame; K may be 0.

    Returns:
        B rows; row b depends on the config, `seed`, `epoch` and `index[b]` only, not on the rest.

    Raises:
        ValueError: `hw` and `small_pixels` differ in length, or a sample is out of range.
    """
    if len(hw) != len(small_pixels):
        raise ValueError(f"{len(hw)} frame sizes do not fit {len(small_pixels)} pixel lists")
    if len(index) and not 0 <= index.min() <= index.max() < len(hw):
        raise ValueError(f"samples must be in [0, {len(hw)}), got {index.min()}..{index.max()}")
    table = np.empty((len(index), 8))
    for row, sample in enumerate(index.tolist()):
        # Each use has its place among the row's numbers, whatever the others come to: a config with
        # another probability moves nothing but what it decides.
        u = _uniform(seed, epoch, sample)
        scale = 1.0 + config.scale_limit * (2 * u[1] - 1) if u[0] < config.scale_p else 1.0
        pixels, centre = small_pixels[sample], None
        if u[2] < config.class_aware_p and len(pixels):
            centre = pixels[int(u[3] * len(pixels))]
        box = _box(config, hw[sample], scale, centre, (u[4], u[5]))
        gain, shift = 1.0, 0.0
        if u[7] < config.jitter_p:
            gain += config.contrast * (2 * u[8] - 1)
            shift += config.brightness * (2 * u[9] - 1)
        # Every source computes the light in float32.
        light = np.float32(gain), np.float32(shift)
        table[row] = sample, *box, u[6] < config.flip_p, *light
    return Draws(table)


def whole_frame_draws(index: NDArray[np.int64], hw: NDArray[np.int64]) -> Draws:
    """Draws that show each sample of `index` whole and as it is; arguments as of `draw`.

    Their boxes are the frames, off the grid of `draw`: where a position falls between two pixels,
    sources may choose either for depth and label.
    """
    zero = np.zeros(len(index))
    return Draws(np.column_stack([index, zero, zero, hw[index], zero, zero + 1, zero]))


def _box(
    config: DataConfig,
    hw: NDArray[np.int64],
    scale: float,
    centre: NDArray[np.int32] | None,
    u: tuple[float, float],
) -> tuple[float, float, float, float]:
    """Top, left, height, width in pixels of a frame of size `hw`, on its grid."""
    units = _grid_units(hw)
    spans = []
    for axis in (0, 1):
        side = int(hw[axis])
        # A step of four units and a start on an odd unit make every position an odd unit.
        step = side / (config.input_hw[axis] * scale)
        step = max(1, round(step * units / 4)) * 4 / units
        length = step * config.crop_hw[axis]
        low, high = min(0.0, side - length), max(0.0, side - length)
        if centre is None:
            # A crop larger than the frame starts at or before it: what lies outside is ignored.
            start = low + u[axis] * (high - low)
        else:
            start = min(max(centre[axis] + 0.5 - length / 2, low), high)
        spans.append(((2 * math.floor(start * units / 2) + 1) / units, length))
    (top, height), (left, width) = spans
    return top, left, height, width


def _grid_units(hw: NDArray[np.int64]) -> float:
    """Units per pixel of the grid that boxes in a frame of size `hw` lie on.

    4096 for frames to 2048 pixels a side, halved for each doubling: a position within twice the
    side then takes at most 24 bits, which float32 holds exactly.
    """
    return 2.0 ** (12 - max(0, math.ceil(math.log2(int(max(hw)) / 2048))))


def _uniform(seed: int, epoch: int, sample: int) -> list[float]:
    """Numbers in [0, 1) of one row; raw bits, because NumPy may change its distributions."""
    raw = _philox(seed, epoch, sample, _ROW_STREAM).random_raw(_NUMBERS_PER_ROW)
    numbers: list[float] = ((raw >> np.uint64(11)) * 2.0**-53).tolist()
    return numbers


def _philox(seed: int, epoch: int, sample: int, stream: int) -> np.random.Philox:
    # The lowest word counts the blocks within a stream and is left to the generator.
    return np.random.Philox(key=seed, counter=np.array([0, stream, sample, epoch], dtype=np.uint64))
