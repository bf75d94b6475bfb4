"""The sweep along a line of blends, pixel by pixel in plain NumPy; the oracle of the tests.

Axes: M models, C class, h w pixels of the probabilities, R W labels of some rows, T shares.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

MOST_CLASSES = 255
"""A class is a uint8, and 255 is the label of ignored pixels."""

Array = NDArray[Any]


def frame_crossings(
    prob_MChw: Sequence[Array],
    end_2MC: NDArray[np.float64],
    label_RW: NDArray[np.uint8],
    rows: tuple[int, int, int],
) -> tuple[NDArray[np.int64], list[tuple[float, int, int, int]]]:
    """The counts at the start, and (share, truth, before, after) of every change of a winner.

    The winner can change only where two classes' lines cross, so it is looked at half-way between
    neighbouring crossings: what changes at a tie alone is not in the list.

    Args:
        prob_MChw: M arrays (C, h, w), floating.
        end_2MC: (2, M, C) weights at both ends.
        label_RW: (R, W) labels of some rows, 0 .. C-1 or 255 = ignore.
        rows: (first, step, height), see `kernels.blend_sweep.op.frame_crossings`.
    """
    check(prob_MChw, end_2MC, label_RW, rows)
    first, step, height = rows
    size = (height, label_RW.shape[1])
    wide = [
        F.interpolate(torch.from_numpy(prob)[None].double(), size=size, mode="bilinear")[0].numpy()
        for prob in prob_MChw
    ]
    score_2CRW = np.einsum("emc,mcyx->ecyx", end_2MC, np.stack(wide)[:, :, first::step])
    classes = len(score_2CRW[0])
    count_CC, found = np.zeros((classes, classes), np.int64), []
    for y, x in zip(*np.nonzero(label_RW < classes), strict=True):
        truth = int(label_RW[y, x])
        start_C, stop_C = score_2CRW[0, :, y, x], score_2CRW[1, :, y, x]
        gain_CC = np.subtract.outer(stop_C - start_C, stop_C - start_C)
        at_T = -np.subtract.outer(start_C, start_C)[gain_CC > 0] / gain_CC[gain_CC > 0]
        at_T = np.unique(at_T[(at_T > 0) & (at_T < 1)])
        between = (np.concatenate([[0], at_T]) + np.concatenate([at_T, [1]])) / 2
        winners = [int(np.argmax((1 - t) * start_C + t * stop_C)) for t in between]
        count_CC[truth, winners[0]] += 1
        for share, before, after in zip(at_T, winners[:-1], winners[1:], strict=True):
            if before != after:
                found.append((float(share), truth, before, after))
    return count_CC, found


def check(
    prob_MChw: Sequence[Array],
    end_2MC: NDArray[np.float64],
    label_RW: NDArray[np.uint8],
    rows: tuple[int, int, int],
) -> None:
    """Raise the ValueErrors of `frame_crossings`."""
    shapes = [prob.shape for prob in prob_MChw]
    if not shapes or any(len(shape) != 3 or 0 in shape for shape in shapes):
        raise ValueError(f"probabilities must be (C, h, w) of one model or more, got {shapes}")
    classes = {shape[0] for shape in shapes}
    if len(classes) > 1 or max(classes) > MOST_CLASSES:
        raise ValueError(f"models must agree in at most {MOST_CLASSES} classes, got {shapes}")
    expected = (2, len(shapes), *classes)
    if end_2MC.shape != expected:
        raise ValueError(f"the line's ends must be (2, M, C) = {expected}, got {end_2MC.shape}")
    first, step, height = rows
    if label_RW.ndim != 2 or label_RW.dtype != np.uint8:
        raise ValueError(f"labels must be 2-D uint8, got {label_RW.dtype} {label_RW.shape}")
    if first < 0 or step < 1 or len(label_RW) != len(range(first, height, step)):
        raise ValueError(
            f"rows {first}, {first + step} .. of {height} are {len(range(first, height, step))}, "
            f"got {len(label_RW)} rows of labels"
        )
