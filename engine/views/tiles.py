"""Frames that are looked at in overlapping tiles, so that memory does not grow with their size.

Every view of a frame passes in tiles (overlap-tile: Ronneberger, Fischer and Brox, "U-Net:
Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015), whose logits lie on the
grid that those of the whole lie on; from there on it is what a `Predictor` does with a whole view.
It is done band by band: logits and probabilities are there of some rows at a time.

Axes: C class, H W pixels of the base size, n rows of a band.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data.batch import FrameBatch
from engine.data.sources import FrameReader
from engine.runtime.device import DevicePolicy
from engine.runtime.memory import return_freed
from engine.views.masks import Rows
from engine.views.mixture import Mixture
from engine.views.predictor import Predictor
from engine.views.tile_pass import Tile, TiledView, view_of
from engine.views.view_sum import ViewSum
from engine.views.zoom import base_hw, view_hw
from kernels.tta_accumulate import zero_total

Size = tuple[int, int]

BAND = 256
"""Rows of the base size that are finished at a time: of 4000 columns 13 classes take 53 MB."""


@dataclass(frozen=True, eq=False)
class Tiled:
    """What sees a frame in tiles; a `System` of frames one at a time."""

    system: Predictor | Mixture
    """Whose networks and views; all bring a frame to one size."""
    tile: Tile

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
        """The rows of one frame, band by band, at its size."""
        assert len(frames.index) == 1, "tiles are of one frame"
        first = self.predictors[0]
        base = base_hw(first.data, first.inference, frames.hw)
        scales = [scale for each in self.predictors for scale in each.inference.scales]
        if all(self.tile.holds(view_hw(base, scale)) for scale in scales):
            yield from self.system.rows(frames)
            return
        bands = self._bands(frames, base)
        for band_CnW in bands if base == frames.hw else resized(bands, base, frames.hw):
            yield Rows(band_CnW[None], (band_CnW.shape[1], frames.hw[1]))

    @property
    def predictors(self) -> Sequence[Predictor]:
        """Of the runs that look."""
        return self.system.predictors if isinstance(self.system, Mixture) else [self.system]

    def _bands(self, frames: FrameBatch, base: Size) -> Iterator[Tensor]:
        """(C, n, W) of the base size, from the top."""
        looks = [self._looks(predictor, frames, base) for predictor in self.predictors]
        for top in range(0, base[0], BAND):
            some = top, min(top + BAND, base[0])
            means = (
                self._mean(predictor, own, some, base)
                for predictor, own in zip(self.predictors, looks, strict=True)
            )
            if isinstance(self.system, Mixture):
                yield self.system.blended(means)
            else:
                yield next(means)
        del looks
        return_freed()  # whoever writes the frame needs room of other sizes

    def _looks(self, predictor: Predictor, frames: FrameBatch, base: Size) -> Sequence[TiledView]:
        """All views by all networks, in the order in which they are added up."""
        views, networks = predictor.inference, predictor.networks
        specs = dict.fromkeys(network.spec for network in networks)
        return [
            TiledView(
                network, frames, view_of(view_hw(base, scale), flipped=flip), self.policy, self.tile
            )
            for scale, spec in itertools.product(views.scales, specs)
            for flip in (False, True)[: 1 + views.flip]
            for network in networks
            if network.spec == spec
        ]

    def _mean(
        self, predictor: Predictor, looks: Sequence[TiledView], rows: Size, base: Size
    ) -> Tensor:
        """(C, n, W) of those rows, at the first temperature; see `Predictor.probabilities`."""
        classes, size = len(predictor.data.classes), (rows[1] - rows[0], base[1])
        total_BTCHW = zero_total(1, 1, classes, size, self.policy.device)
        accumulate = self.policy.operations.tta_accumulate
        total = ViewSum(total_BTCHW, predictor.inference.temperatures[:1], accumulate)
        for look in looks:
            logits_BChw, view = look.band(rows, base[0])
            total.add([logits_BChw], view)
            # At once: the logits of all views would take as much as the sum.
            total.finish()
        return total_BTCHW.div_(len(looks))[0, 0]


def resized(bands: Iterator[Tensor], base_hw: Size, hw: Size) -> Iterator[Tensor]:
    """Bring bands (C, n, W) of a base size to a frame's, as bilinear resizing of the whole does.

    Each band's rows that need nothing below it are handed on with it, if there are any.
    """
    (height, rows), (_, width) = (base_hw[0], hw[0]), hw
    # Where rows of the frame lie among those of the base size, whose centres are whole numbers.
    place = np.clip((np.arange(rows) + 0.5) * height / rows - 0.5, 0, height - 1)
    above = np.floor(place).astype(np.int64)
    below = np.minimum(above + 1, height - 1)
    share = torch.from_numpy((place - above).astype(np.float32))[:, None]
    done, first, end, held_CnW = 0, 0, 0, None
    for band_CnW in bands:
        held_CnW = band_CnW if held_CnW is None else torch.cat([held_CnW, band_CnW], dim=1)
        end += band_CnW.shape[1]
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
