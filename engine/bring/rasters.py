"""Regions become pixels: polygons, and COCO's run lengths. H W: pixels of a mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def polygon(points: Sequence[Sequence[float]], hw: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) what a polygon of (x, y) covers, its outline among it."""
    mask = Image.new("1", (hw[1], hw[0]))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in points], fill=1, outline=1)
    return np.asarray(mask, np.bool_)


def ellipse(corners: tuple[float, float, float, float], hw: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) what an ellipse between x0, y0, x1 and y1 covers."""
    mask = Image.new("1", (hw[1], hw[0]))
    ImageDraw.Draw(mask).ellipse(corners, fill=1)
    return np.asarray(mask, np.bool_)


def from_runs(runs: Sequence[int], hw: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) of run lengths, off and on in turns, down the columns; ValueError if they do not fit.

    https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.h
    """
    if sum(runs) != hw[0] * hw[1] or min(runs, default=0) < 0:
        raise ValueError(f"runs of {sum(runs)} pixels for a mask of {hw[0]} x {hw[1]}")
    on = np.arange(len(runs)) % 2 == 1
    return np.repeat(on, np.asarray(runs, np.int64)).reshape(hw[::-1]).T


def uncompressed(text: str) -> list[int]:
    """Run lengths of COCO's text: five bits a character, from the third run on as a difference."""
    runs: list[int] = []
    number = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{letter!r} is none of COCO's run lengths")
        number |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("run lengths end in the middle of a number")
    return runs
