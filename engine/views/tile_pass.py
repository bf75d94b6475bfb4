"""`TiledView`: the logits of a view of one frame, of which a network sees one tile at a time.

Where tiles overlap their logits are blended under a window that falls smoothly to their sides,
where a network sees less of what is around; layers that look at a whole view: see
`engine.views.pooled`.

Axes: B is 1, C channels or classes, H W pixels of the view, h w cells of stride 4.
"""

import functools
import itertools
import logging
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.batch import FrameBatch
from engine.model.encoder import STRIDES
from engine.model.network import Network, Prediction
from engine.runtime.device import DevicePolicy
from engine.runtime.memory import return_freed
from engine.views.pooled import Pooled
from engine.views.predictor import FoldNetwork, view_input
from kernels.tta_accumulate import Band, View, needed_cells

_CELL, _UNIT = STRIDES[0], STRIDES[-1]

_tell_once = functools.cache(logging.getLogger(__name__).warning)
"""Logs the same message once."""

Size = tuple[int, int]

OUTER = 0.375
"""Share of an overlap, on each side, in which a tile has no say."""


@dataclass(frozen=True)
class Tile:
    """How much passes a network at a time."""

    hw: Size
    """Pixels of a view, multiples of the encoder's last stride; of a low view more columns."""
    overlap: float
    """Share of a side on which the next tile lies too, at least."""

    def holds(self, view_hw: Size) -> bool:
        """Whether a view passes whole."""
        return view_hw[0] * view_hw[1] <= self.hw[0] * self.hw[1]

    def of(self, view_hw: Size) -> Size:
        """Height and width of the tiles of a view that it does not hold."""
        height = min(self.hw[0], view_hw[0])
        width = self.hw[0] * self.hw[1] // height // _UNIT * _UNIT
        if width > view_hw[1]:
            width = view_hw[1]
            height = self.hw[0] * self.hw[1] // width // _UNIT * _UNIT
        return height, width


@dataclass(eq=False)
class TiledView:
    """A view of one frame, as one network sees it in tiles; its bands are asked for downwards."""

    network: FoldNetwork
    frames: FrameBatch
    """The one."""
    view: View
    policy: DevicePolicy
    tile: Tile
    _held: Tensor | None = None
    """(1, C, n, w) sums of the tiles so far, of rows of cells from `_first` on."""
    _first: int = 0
    _done: int = 0
    """Rows of cells to which no other tile adds."""
    _passed: int = 0
    """Rows of tiles."""

    def band(self, rows: Size, height: int) -> tuple[Tensor, View]:
        """(1, C, n, w) logits that rows of the base need, and the view of these.

        Args:
            rows: of the base, first and one past the last; the first is never above a former one.
            height: rows of the base in all.
        """
        cells = self.view.hw[0] // _CELL
        first, end = needed_cells(self.view, rows, height, cells)
        if self.tile.holds(self.view.hw):
            if self._held is None:
                # The network's next call would overwrite it.
                self._held = self._look((0, 0), self.view.hw, None).logits_BChw.clone()
        else:
            while self._done < end:
                self._pass_row(first)
        assert self._held is not None, "a row has passed"
        held = self._held[:, :, first - self._first : end - self._first]
        return held, self.view._replace(band=Band(rows[0], height, first, cells))

    @cached_property
    def places(self) -> tuple[list[int], list[int]]:
        """Where rows and columns of tiles begin, pixels."""
        sides = zip(self.view.hw, self.tile.of(self.view.hw), strict=True)
        tops, lefts = (starts(length, side, self.tile.overlap) for length, side in sides)
        return tops, lefts

    def _pass_row(self, first: int) -> None:
        """Add the next row of tiles; rows of cells above `first` are no longer needed."""
        pooled = self._pooled
        return_freed()  # views have tiles of many sizes
        (tops, lefts), hw = self.places, self.tile.of(self.view.hw)
        size = [side // _CELL for side in self.view.hw]
        windows = (
            weights([at // _CELL for at in places], side // _CELL, length, self.tile.overlap)
            for places, side, length in zip((tops, lefts), hw, size, strict=True)
        )
        rows_Rh, columns_Lw = (torch.from_numpy(each).to(self.policy.device) for each in windows)
        top = tops[self._passed]
        held = None
        for left, column_w in zip(lefts, columns_Lw, strict=True):
            logits_BChw = self._look((top, left), hw, pooled).logits_BChw
            if held is None:
                held = self._moved(min(first, top // _CELL), (top + hw[0]) // _CELL, logits_BChw)
            own = (
                slice(top // _CELL - self._first, None),
                slice(left // _CELL, (left + hw[1]) // _CELL),
            )
            held[:, :, *own] += logits_BChw * (rows_Rh[self._passed][:, None] * column_w)
        self._passed += 1
        below = tops[self._passed] if self._passed < len(tops) else self.view.hw[0]
        self._done = below // _CELL

    def _moved(self, first: int, end: int, like_BChw: Tensor) -> Tensor:
        """What is held, from row `first` of cells on, with zeros down to `end`."""
        shape = *like_BChw.shape[:2], end - first, self.view.hw[1] // _CELL
        moved = torch.zeros(shape, device=like_BChw.device)
        if self._held is not None:
            kept = self._held[:, :, first - self._first :]
            moved[:, :, : kept.shape[2]] = kept
        self._held, self._first = moved, first
        return moved

    @cached_property
    def _pooled(self) -> Pooled | None:
        """Knows all of the view; None if the network runs where its layers cannot be told apart."""
        if self.network.eager is None:
            _tell_once(
                "tiles by OpenVINO take their own statistics, not the whole frame's: they differ "
                "more from the whole than those of --runtime torch"
            )
            return None
        return_freed()
        pooled = Pooled(self.view.hw)
        # Side by side: a zero-padded border in some hundred cells is little beside one's own norm.
        sides = zip(self.view.hw, self.tile.of(self.view.hw), strict=True)
        rows, columns = (_cut(*each) for each in sides)
        for (top, bottom), (left, right) in itertools.product(rows, columns):
            self._look((top, left), (bottom - top, right - left), pooled)
        pooled.known = True
        return pooled

    def _look(self, top_left: Size, hw: Size, pooled: Pooled | None) -> Prediction:
        image_BCHW = self._input(top_left, hw)
        if pooled is None or self.network.eager is None:
            return self.network.forward(image_BCHW)
        with pooled.at(top_left, hw):
            return self.network.eager(image_BCHW)

    def _input(self, top_left: Size, hw: Size) -> Tensor:
        """(1, C, *hw) of the view, channels-last."""
        (top, left), view_hw = top_left, self.view.hw
        if self.view.flipped:
            left = view_hw[1] - left - hw[1]
        zoom_2 = np.array(self.frames.hw) / view_hw
        box_B4 = np.hstack([np.array([(top, left)]) * zoom_2, np.array([hw]) * zoom_2])
        part = replace(self.frames, label_BHW=None, box_B4=box_B4)
        crop, dtype = self.policy.operations.crop_resize, self.policy.input_dtype
        spec = self.network.spec
        image_BCHW = view_input(part, hw, spec, crop, dtype)
        image_BCHW = spec.mirrored(image_BCHW) if self.view.flipped else image_BCHW
        return image_BCHW.contiguous(memory_format=torch.channels_last)


def view_of(hw: Size, *, flipped: bool) -> View:
    """A view of that size, as this engine's networks see it."""
    return View(hw, flipped, Network.align_corners)


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin on a side of `length` >= `tile`; the last ends with it.

    All are multiples of the encoder's last stride, as a view's sides are: the network sees there
    what it would see in the whole.
    """
    step = max(int(tile * (1 - overlap)) // _UNIT, 1) * _UNIT
    return [*range(0, length - tile, step), length - tile]


def weights(first: list[int], tile: int, length: int, overlap: float) -> NDArray[np.float32]:
    """(len(first), tile) weights along a side of tiles that begin at `first`; 1 in sum everywhere.

    Of what two tiles share, `OUTER` on each side is the other's alone. Between, a tile's weight
    rises as a raised cosine.
    """
    shared = tile * min(overlap, 0.5)
    away = (np.arange(tile) + 0.5 - shared * OUTER) / max(shared * (1 - 2 * OUTER), 1)
    # Above 0, if only just, where a tile has no say but may be alone.
    rise = np.sin(np.pi / 2 * away.clip(1e-3, 1)) ** 2
    # The frame's own sides are no border: beyond them the whole sees nothing, either.
    flat, last = np.ones(tile), length - tile
    windows = [
        (rise if start else flat) * (rise[::-1] if start < last else flat) for start in first
    ]
    total = np.zeros(length)
    for start, window_t in zip(first, windows, strict=True):
        total[start : start + tile] += window_t
    pairs = zip(first, windows, strict=True)
    return np.stack([w / total[start : start + tile] for start, w in pairs]).astype(np.float32)


def _cut(length: int, most: int) -> list[Size]:
    """A side in nearly equal parts of at most so many pixels, multiples of the last stride."""
    count, units = -(-length // most), length // _UNIT
    ends = [units * number // count * _UNIT for number in range(count + 1)]
    return list(itertools.pairwise(ends))
