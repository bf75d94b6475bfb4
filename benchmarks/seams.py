"""Masks by tiles against those of frames seen whole, and where tiles meet: `benchmarks.tiles`."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.data.arrays import array_frame, frame_batch
from engine.data.batch import FrameBatch
from engine.frames.reading import Reading
from engine.views.masks import System
from engine.views.tile_pass import OUTER, Tile, starts, view_of
from engine.views.tiles import Tiled
from engine.views.zoom import base_hw, view_hw

Size = tuple[int, int]


def disagreement(
    tiled: Tiled, frames: FrameBatch, scales: Sequence[float]
) -> tuple[float, float, float]:
    """The shares of pixels whose class tiles tell differently: of all, at seams, elsewhere."""
    wrong_HW = mask(tiled, frames) != mask(tiled.system, frames)
    predictor = tiled.predictors[0]
    seam_HW = seams(
        tiled.tile, frames.hw, base_hw(predictor.data, predictor.inference, frames.hw), scales
    )
    return wrong_HW.mean(), wrong_HW[seam_HW].mean(), wrong_HW[~seam_HW].mean()


def mask(system: System, frames: FrameBatch) -> NDArray[np.uint8]:
    """(H, W) classes of one frame."""
    argmax = system.policy.operations.resized_argmax
    return torch.cat([argmax(*rows) for rows in system.rows(frames)], dim=1)[0].cpu().numpy()


def seams(tile: Tile, hw: Size, base: Size, scales: Sequence[float]) -> NDArray[np.bool_]:
    """(H, W) where two tiles of one of the views blend."""
    shared = [np.zeros(side, bool) for side in hw]
    for scale in scales:
        view = view_of(view_hw(base, scale), flipped=False)
        if tile.holds(view.hw):
            continue
        for axis, side in enumerate(tile.of(view.hw)):
            length, zoom = view.hw[axis], hw[axis] / view.hw[axis]
            outer = side * tile.overlap * OUTER
            first = starts(length, side, tile.overlap)
            for before, after in itertools.pairwise(first):
                ends = (after + outer, before + side - outer)
                some = slice(*(round(end * zoom) for end in ends))
                shared[axis][some] = True
                # Of a mirrored view, mirrored.
                shared[axis] |= shared[axis][::-1] if axis else False
    return shared[0][:, None] | shared[1][None]


def mosaic(data: Path, grid: int, seed: int, reading: Reading, device: torch.device) -> FrameBatch:
    """One frame of `grid` x `grid` test images, drawn anew for each seed."""
    names = sorted((data / "test" / "image").iterdir())
    picked = np.random.default_rng(seed).choice(len(names), grid * grid)
    image = _joined([names[at] for at in picked], grid)
    folder = data / "test" / "depth"
    depth = None
    if folder.is_dir():
        depth = _joined([folder / f"{names[at].stem}.png" for at in picked], grid)
        depth = depth.astype(np.uint16)
    frame = array_frame(image, depth, reading, need_depth=depth is not None)
    return frame_batch([frame], device)


def _joined(paths: Sequence[Path], grid: int) -> NDArray[Any]:
    parts = [np.asarray(Image.open(path)) for path in paths]
    rows = [np.concatenate(parts[at : at + grid], axis=1) for at in range(0, len(parts), grid)]
    return np.concatenate(rows)
