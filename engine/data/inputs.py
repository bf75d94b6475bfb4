"""What a network sees of a frame: which part of it, in which light, by which channels.

Part and light of an augmented frame are a row of `Draws`: a pure function of (seed, epoch, sample),
by Philox, a counter-based generator (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
SC 2011): the seed is its key, (epoch, sample, stream) its counter. There is no state to save: a
resumed run goes on with the same draws, whatever batch a row is in.

Resizing, scaling, cropping and mirroring a frame are one box in its own pixels, hence one
resampling. Output pixel i of a side of n samples the frame at `start + (i + 0.5) * length / n`
(pixel centres are at halves), mirrored afterwards. Boxes lie on a binary grid so that each of these
positions is exact in float32 and never a whole number: whichever arithmetic a source has, it picks
the same nearest pixel.

B: rows of a batch. C: channels. H W: pixels. N: samples of a split. K: kept small-class pixels of a
frame. R: random numbers of a row.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config import Config, DataConfig
from engine.data.batch import Draws
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M
from engine.settings import SURFACES
from kernels import gpu
from kernels.crop_resize import Crops, Encoding, Frames

if TYPE_CHECKING:
    # Not for networks that see none.
    from engine.data.surface import Surface

_ROW_STREAM, _ORDER_STREAM, _LOOK_STREAM, _MIX_STREAM = 0, 1, 2, 3
"""Words of the counter that keep apart a row's numbers, an epoch's order, a row's colours, and what
is pasted over it."""

_NUMBERS_PER_ROW, _NUMBERS_PER_LOOK = 10, 3
"""Random numbers that `draw` reads for a row, whether its probabilities need them or not; those of
colours and hidden depth only where the config has them."""

_PINNED_BYTES = 1 << 28
"""More, which a split's frames have and no batch, is waited for: pinned it would be there twice."""

CropResize = Callable[[Frames, Tensor, tuple[int, int], Encoding, torch.dtype], Crops]
"""`kernels.crop_resize.crop_resize`, or its reference."""


@dataclass(frozen=True)
class Normalisation:
    """The affine map that an encoder was pretrained with: (x - mean) / std, x in 0..255."""

    mean: tuple[float, float, float]
    """Of R, G, B, in units of 0..255."""
    std: tuple[float, float, float]
    """Likewise; ValueError unless positive."""

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"deviations of a normalisation must be positive, got {self.std}")


def read_normalisation(path: Path) -> Normalisation | None:
    """What the weights in a file of `engine.train` were trained with; None if it does not say."""
    try:
        with safe_open(path, framework="np") as file:
            written = json.loads((file.metadata() or {}).get("roomsmith", "{}"))
        return Normalisation(tuple(written["mean"]), tuple(written["std"]))
    except (OSError, SafetensorError, KeyError):
        return None


Derived = Callable[[Tensor, Tensor], Tensor]
"""From network input (B, 3 or 4, H, W) and depth in metres (B, H, W) to one more channel."""

DERIVED: dict[str, tuple[Derived, ...]] = {"rgb": (), "rgbd": ()}
"""Channels behind RGB and inverse depth, by `model.input`; neither published input has any. Those
of whole frames, `engine.data.surface`, are none of them."""


@dataclass(frozen=True)
class InputSpec:
    """The input of a network; ValueError if there are neither 3 nor 4 channels."""

    channels: int
    """3 (RGB), or 4 with inverse depth; those of `surface` and `derived` come behind them."""
    normalisation: Normalisation
    derived: tuple[Derived, ...] = ()
    depth_scale: float = 0.001
    """Metres that a unit of the depth maps stands for."""
    surface: "Surface | None" = None

    def __post_init__(self) -> None:
        if self.channels not in (3, 4):
            raise ValueError(f"a network takes 3 (RGB) or 4 (RGB-D) channels, got {self.channels}")

    @classmethod
    def of(cls, config: Config, normalisation: Normalisation) -> "InputSpec":
        """What the network that a config describes sees."""
        scale = config.data.depth_scale
        if kind := SURFACES.get(config.model.input):
            from engine.data.surface import Surface

            return cls(4, normalisation, (), scale, Surface.of(kind, config.data))
        derived = DERIVED[config.model.input]
        channels = config.model.in_channels - len(derived)
        return cls(channels, normalisation, derived, scale)

    @property
    def mm_a_unit(self) -> float:
        """Of the depth maps; sources count in millimetres."""
        return 1000 * self.depth_scale

    @property
    def has_depth(self) -> bool:
        """Whether the network sees depth."""
        return self.channels == 4

    def complete(self, image_BCHW: Tensor, depth_BHW: Tensor) -> Tensor:
        """Append the derived channels to normalised RGB and inverse depth."""
        if not self.derived:
            return image_BCHW
        more = [channel(image_BCHW, depth_BHW)[:, None] for channel in self.derived]
        return torch.cat([image_BCHW, *more], 1).contiguous(memory_format=torch.channels_last)

    def finish(
        self, image_BCHW: Tensor, depth_BHW: Tensor, draws: Draws, hw_B2: NDArray[np.int64]
    ) -> Tensor:
        """The network's input of crops that have all but derived channels, which may change.

        Args:
            image_BCHW: normalised RGB, lit, inverse depth and surfaces.
            depth_BHW: metres, 0 = missing or outside; not changed.
            draws: what the crops were made by.
            hw_B2: height and width of their frames.
        """
        if draws.colour is not None or draws.hidden is not None:
            from engine.data.after_crop import hide_depth, recolour

            recolour(image_BCHW, draws, hw_B2, self.normalisation)
            depth_BHW = hide_depth(image_BCHW, depth_BHW, draws, self)
        return self.complete(image_BCHW, depth_BHW)

    def mirrored(self, image_BCHW: Tensor) -> Tensor:
        """What a mirror shows of the network's input: left to right, and normals turned."""
        if self.surface is None:
            return image_BCHW.flip(-1)
        from engine.data.surface import mirror_image

        return mirror_image(image_BCHW, self.surface)


def epoch_order(seed: int, epoch: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order, a permutation of `index` (N,), in which an epoch, from 0, visits these samples."""
    keys = _random_bits(seed, epoch, 0, _ORDER_STREAM, len(index))
    return index[np.argsort(keys, kind="stable")]


def training_hw(config: DataConfig, hw_N2: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, 2) height and width that training resizes frames of `hw_N2` (N, 2) to, not rounded.

    `config.input_hw`, or, for `fit = "keep"`, what has its area and the frame's own aspect. A crop
    may be larger than that on one side: what lies outside is ignored.
    """
    input_2, (height, width) = np.array(config.input_hw, np.float64), config.input_hw
    # A frame of the same aspect gets exactly that size, whatever the root below is rounded to.
    fits_N1 = hw_N2[:, :1] * width == hw_N2[:, 1:] * height
    zoom_N1 = np.sqrt(height * width / hw_N2.prod(axis=1, keepdims=True))
    return np.where(fits_N1 | (config.fit == "stretch"), input_2, hw_N2 * zoom_N1)


def draw(
    config: DataConfig,
    *,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    hw: NDArray[np.int64],
    small_pixels: Sequence[NDArray[np.int32]],
) -> Draws:
    """Draw the augmentation of the samples `index` (B,) in one epoch, from 0; 0 <= seed < 2**128.

    The frame is resized to its `training_hw` and scaled by s in 1 +- `scale_limit`, or, evenly in
    its logarithm, in `scale_range` (probability `scale_p`); of the result S x S', a crop of
    `crop_hw` starts uniformly in [min(0, S - crop), max(0, S - crop)], or, with probability
    `class_aware_p`, is centred on a pixel of the small classes as far as that range allows. No row
    depends on another.

    `hw` (N, 2) is height and width of every frame of the split, `small_pixels` N arrays (K, 2) of
    row and column, K may be 0. Different lengths or a sample out of range are a ValueError.
    """
    if len(hw) != len(small_pixels):
        raise ValueError(f"{len(hw)} frame sizes do not fit {len(small_pixels)} pixel lists")
    _check_samples(index, len(hw))
    # Each use has its place among the row's numbers, whatever the others come to: a config with
    # another probability moves nothing but what it decides.
    u_RB = _uniform(seed, epoch, index).T
    centre_B2 = np.full((len(index), 2), np.nan)
    for row, sample in enumerate(index.tolist()):
        pixels = small_pixels[sample]
        if u_RB[2, row] < config.class_aware_p and len(pixels):
            centre_B2[row] = pixels[int(u_RB[3, row] * len(pixels))] + 0.5
    scaled_B = u_RB[0] < config.scale_p
    if config.scale_range:
        low, high = config.scale_range
        scale_B = np.where(scaled_B, low * (high / low) ** u_RB[1], 1.0)
    else:
        scale_B = 1.0 + scaled_B * config.scale_limit * (2 * u_RB[1] - 1)
    box_B4 = _boxes(config, hw[index], scale_B[:, None], centre_B2, u_RB[4:6].T)
    lit_B = u_RB[7] < config.jitter_p
    gain_B = 1.0 + lit_B * config.contrast * (2 * u_RB[8] - 1)
    shift_B = 0.0 + lit_B * config.brightness * (2 * u_RB[9] - 1)  # 0.0 + -0.0 is 0.0
    # Every source computes the light in float32.
    light_B2 = np.stack([gain_B, shift_B], axis=1).astype(np.float32)
    draws = Draws(index, box_B4, u_RB[6] < config.flip_p, light_B2)
    if not (config.hue or config.saturation or config.depth_dropout):
        return draws
    turn_B, gain_B, hide_B = _uniform(seed, epoch, index, _LOOK_STREAM, _NUMBERS_PER_LOOK).T
    colour_B2 = np.stack(
        [
            lit_B * config.hue * (2 * turn_B - 1),
            1.0 + lit_B * config.saturation * (2 * gain_B - 1),
        ],
        axis=1,
    )
    return replace(
        draws,
        colour=colour_B2 if config.hue or config.saturation else None,
        hidden=hide_B < config.depth_dropout if config.depth_dropout else None,
    )


def class_mix_draws(
    probability: float, *, seed: int, epoch: int, index: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Keys of classes (B, C) and which rows (B,) are pasted over: for `engine.data.class_mix`."""
    u_BR = _uniform(seed, epoch, index, _MIX_STREAM, classes + 1)
    return u_BR[:, 1:], u_BR[:, 0] < probability


def whole_frame_draws(index: NDArray[np.int64], hw: NDArray[np.int64]) -> Draws:
    """Draws that show each sample of `index` whole and as it is; arguments as of `draw`.

    Their boxes are off the grid: where a position falls between two pixels, sources may choose
    either for depth and label.
    """
    return plain_draws(index, np.hstack([np.zeros((len(index), 2)), hw[index]]))


def plain_draws(index: NDArray[np.int64], box_B4: NDArray[np.float64]) -> Draws:
    """Draws that show a box (B, 4) of each sample of `index` as it is; see `Draws.box`."""
    light_B2 = np.tile(np.array([1, 0], np.float32), (len(index), 1))
    return Draws(index, box_B4, np.zeros(len(index), np.bool_), light_B2)


def crop_frames(
    frames: Frames,
    draws: Draws,
    crop_hw: tuple[int, int],
    spec: InputSpec,
    crop: CropResize,
    dtype: torch.dtype = torch.float32,
) -> Crops:
    """Crops of the frames that `draws` count in, on their device; does not wait for it.

    The image is of `dtype`, float32 or bfloat16, but float32 where channels come behind it. A
    frame that is not there, or four channels without depth, is a ValueError.
    """
    # In the order of `kernels.crop_resize.DRAW_COLUMNS`.
    columns = draws.index, draws.box, draws.flip, draws.light
    draw_B8 = torch.from_numpy(np.column_stack(columns))
    rgb = spec.normalisation
    # The operation takes depth for millimetres. Where a unit is k of them, inverse depth comes out
    # the same by a range that is k times nearer; only the metres have to be multiplied.
    range_m = DEPTH_MIN_M / spec.mm_a_unit, DEPTH_MAX_M / spec.mm_a_unit
    encoding = Encoding(rgb.mean, rgb.std, range_m, spec.channels)
    exact = spec.derived or spec.surface is not None or draws.colour is not None
    crops = crop(frames, draw_B8, crop_hw, encoding, torch.float32 if exact else dtype)
    if spec.mm_a_unit != 1:
        crops = crops._replace(depth_Bhw=crops.depth_Bhw * spec.mm_a_unit)
    hw_B2 = frames.hw_N2.numpy()[draws.index]
    if spec.surface is not None:
        from engine.data.surface import append_surface, known_cells

        cells = known_cells(frames, draws.index, spec.surface)
        image_BChw = append_surface(*crops[:2], cells, draws, hw_B2, spec.surface)
        crops = crops._replace(image_BChw=image_BChw)
    image_BChw = spec.finish(crops.image_BChw, crops.depth_Bhw, draws, hw_B2)
    if exact and not spec.derived and spec.surface is None:
        image_BChw = image_BChw.to(dtype)
    return crops._replace(image_BChw=image_BChw)


def upload(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; a GPU copies it behind the host's back, if it is small."""
    return host.to(device) if host.nbytes > _PINNED_BYTES else gpu.upload(host, device)


def _check_samples(index: NDArray[np.int64], count: int) -> None:
    if len(index) and not 0 <= index.min() <= index.max() < count:
        raise ValueError(f"samples must be in [0, {count}), got {index.min()}..{index.max()}")


def _boxes(
    config: DataConfig,
    hw_B2: NDArray[np.int64],
    scale_B1: NDArray[np.float64],
    centre_B2: NDArray[np.float64],
    u_B2: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(B, 4) boxes on the grids of their frames, around a centre or, where it is NaN, anywhere."""
    # Units a pixel of the grid: 4096 for frames to 2048 pixels a side, halved for each doubling. A
    # position within twice the side then takes at most 24 bits, which float32 holds exactly.
    doublings_B1 = np.frexp((hw_B2.max(axis=1, keepdims=True) - 1) // 2048)[1]
    units_B1 = np.ldexp(1.0, 12 - doublings_B1)
    # A step of four units and a start on an odd unit make every position an odd unit.
    step_B2 = hw_B2 / (training_hw(config, hw_B2) * scale_B1)
    step_B2 = np.maximum(1, np.round(step_B2 * units_B1 / 4)) * 4 / units_B1
    length_B2 = step_B2 * config.crop_hw
    # A crop larger than the frame starts at or before it: what lies outside is ignored.
    room_B2 = hw_B2 - length_B2
    low_B2, high_B2 = np.minimum(0.0, room_B2), np.maximum(0.0, room_B2)
    start_B2 = np.where(
        np.isnan(centre_B2),
        low_B2 + u_B2 * (high_B2 - low_B2),
        np.clip(centre_B2 - length_B2 / 2, low_B2, high_B2),
    )
    start_B2 = (2 * np.floor(start_B2 * units_B1 / 2) + 1) / units_B1
    return np.hstack([start_B2, length_B2])


def _uniform(
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    stream: int = _ROW_STREAM,
    count: int = _NUMBERS_PER_ROW,
) -> NDArray[np.float64]:
    """(B, R) numbers in [0, 1); made of raw bits, because NumPy may change its distributions."""
    bits = [_random_bits(seed, epoch, sample, stream, count) for sample in index]
    bits_BR = np.array(bits, np.uint64).reshape(-1, count)
    return (bits_BR >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _random_bits(seed: int, epoch: int, sample: int, stream: int, count: int) -> NDArray[np.uint64]:
    # The lowest word counts the blocks within a stream and is left to the generator.
    counter = np.array([0, stream, sample, epoch], np.uint64)
    return np.random.Philox(key=seed, counter=counter).random_raw(count)
