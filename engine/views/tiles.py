"""Frames that are looked at in overlapping tiles, so that memory does not grow with their size.

The frame, brought to its base size, is covered by tiles of one size. Each is looked at as a frame
of its own is, by all views; where tiles overlap, their probabilities are blended under a window
that falls smoothly from a tile's inside to its sides, where the network sees less of what is around
(overlap-tile: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015). What is finished is handed on strip by strip.

Axes: B tiles, C class, H W pixels of the base size, h w of a tile, n rows of a strip.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.data.batch import FrameBatch
from engine.data.sources import FrameReader
from engine.model.encoder import STRIDES
from engine.runtime.device import DevicePolicy
from engine.views.masks import Rows, System

Size = tuple[int, int]

TOGETHER = 1 << 19
"""Pixels of tiles that are looked at together at most, if one has no more: two tiles of 512 x 512.
They keep two cores as busy as more would, and tiles are there to save memory."""


@dataclass(frozen=True, eq=False)
class Tiled:
    """A system that sees a frame in tiles; a `System` of frames one at a time."""

    system: System
    """Looks at tiles; its views are scaled from a window's own size."""
    base_hw: Callable[[Size], Size]
    """The size that a frame of a size is brought to."""
    tile_hw: Size
    """Height and width of a tile, pixels of the base size."""
    overlap: float
    """Share of a tile's side, 0..1, on which the next tile lies too, at least."""

    @property
    def policy(self) -> DevicePolicy:
        """The system's."""
        return self.system.policy

    @property
    def reader(self) -> FrameReader:
        """The system's, but a frame at a time, and few that wait: they are large."""
        return replace(self.system.reader, batch_size=1, ahead=1)

    @torch.inference_mode()
    def rows(self, frames: FrameBatch) -> Iterator[Rows]:
        """The rows of one frame, strip by strip, at its size."""
        assert len(frames.index) == 1, "tiles are of one frame"
        base_hw = self.base_hw(frames.hw)
        if base_hw[0] <= self.tile_hw[0] and base_hw[1] <= self.tile_hw[1]:
            (whole,) = self.system.rows(_window(frames, [(0, 0)], base_hw, base_hw))
            yield Rows(whole.prob_BChw, frames.hw)
            return
        strips = self._strips(frames, base_hw)
        for strip_CnW in strips if base_hw == frames.hw else resized(strips, base_hw, frames.hw):
            yield Rows(strip_CnW[None], (strip_CnW.shape[1], frames.hw[1]))

    def _strips(self, frames: FrameBatch, base_hw: Size) -> Iterator[Tensor]:
        """(C, n, W) of the base size, from the top; the next overwrites it."""
        hw = min(base_hw[0], self.tile_hw[0]), min(base_hw[1], self.tile_hw[1])
        tops, lefts = (starts(*sides, self.overlap) for sides in zip(base_hw, hw, strict=True))
        window_Rh = weights(tops, hw[0], base_hw[0], self.overlap)
        window_Lw = weights(lefts, hw[1], base_hw[1], self.overlap)
        device, held_ChW, first = self.policy.device, None, 0
        most = max(min(self.system.reader.batch_size, TOGETHER // (hw[0] * hw[1])), 1)
        for top, window_h in zip(tops, window_Rh, strict=True):
            if held_ChW is not None:
                # No tile to come reaches above this one's top.
                yield held_ChW[:, : top - first]
                # In place: of a large frame a second strip would be a tenth of all memory.
                kept_CnW = held_ChW[:, top - first :].clone()
                held_ChW.zero_()
                held_ChW[:, : kept_CnW.shape[1]] = kept_CnW
            first = top
            window_h1 = torch.from_numpy(window_h).to(device)[:, None]
            for place in range(0, len(lefts), most):
                some = slice(place, place + most)
                places = [(top, left) for left in lefts[some]]
                (tiles,) = self.system.rows(_window(frames, places, hw, base_hw))
                each = zip(tiles.at_size(), lefts[some], window_Lw[some], strict=True)
                for prob_Chw, left, window_w in each:
                    if held_ChW is None:
                        held_ChW = prob_Chw.new_zeros(len(prob_Chw), hw[0], base_hw[1])
                    window_hw = window_h1 * torch.from_numpy(window_w).to(device)
                    held_ChW[:, :, left : left + hw[1]] += prob_Chw * window_hw
        assert held_ChW is not None, "there is a tile"
        yield held_ChW


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin on a side of `length` >= `tile`; the last ends with it.

    All but the last begin at multiples of the encoder's last stride: the network sees there what it
    would see in the whole.
    """
    stride = STRIDES[-1]
    step = max(int(tile * (1 - overlap)) // stride, 1) * stride
    return [*range(0, length - tile, step), length - tile]


def weights(first: list[int], tile: int, length: int, overlap: float) -> NDArray[np.float32]:
    """(len(first), tile) weights along a side of tiles that begin at `first`; 1 in sum everywhere.

    A tile's weight rises and falls as a raised cosine within the `overlap`, above 0 everywhere.
    """
    taper = max(math.ceil(tile * min(overlap, 0.5)), 1)
    rise = np.sin(np.pi / 2 * (np.arange(taper) + 0.5) / taper) ** 2
    window_t = np.ones(tile)
    window_t[:taper] *= rise
    window_t[-taper:] *= rise[::-1]
    total = np.zeros(length)
    for start in first:
        total[start : start + tile] += window_t
    return np.stack([window_t / total[start : start + tile] for start in first]).astype(np.float32)


def resized(strips: Iterator[Tensor], base_hw: Size, hw: Size) -> Iterator[Tensor]:
    """Bring strips (C, n, W) of a base size to a frame's, as bilinear resizing of the whole does.

    Each strip's rows that need nothing below it are handed on with it, if there are any.
    """
    (height, rows), (_, width) = (base_hw[0], hw[0]), hw
    # Where rows of the frame lie among those of the base size, whose centres are whole numbers.
    place = np.clip((np.arange(rows) + 0.5) * height / rows - 0.5, 0, height - 1)
    above = np.floor(place).astype(np.int64)
    below = np.minimum(above + 1, height - 1)
    share = torch.from_numpy((place - above).astype(np.float32))[:, None]
    done, first, end, held_CnW = 0, 0, 0, None
    for strip_CnW in strips:
        held_CnW = strip_CnW if held_CnW is None else torch.cat([held_CnW, strip_CnW], dim=1)
        end += strip_CnW.shape[1]
        ready = int(np.searchsorted(below, end))
        if ready == done:
            held_CnW = held_CnW.clone()
            continue
        taken = slice(done, ready)
        upper, lower = (held_CnW[:, index[taken] - first] for index in (above, below))
        mixed_CnW = torch.lerp(upper, lower, share[taken].to(held_CnW.device))
        size = mixed_CnW.shape[1], width
        yield F.interpolate(mixed_CnW[None], size, mode="bilinear", align_corners=False)[0]
        done = ready
        if done < rows:
            kept = int(above[done])
            held_CnW, first = held_CnW[:, kept - first :].clone(), kept


def _window(
    frames: FrameBatch, places: list[tuple[int, int]], hw: Size, base_hw: Size
) -> FrameBatch:
    """Windows of `hw` at places (top, left), in pixels of the base size, of the one frame."""
    zoom_2 = np.array(frames.hw) / base_hw
    box_B4 = [[*(np.array(place) * zoom_2), *(np.array(hw) * zoom_2)] for place in places]
    index = np.repeat(frames.index, len(places))
    return replace(frames, hw=hw, index=index, label_BHW=None, box_B4=np.array(box_B4))
