"""The sweep along a line of blends, one frame at a time, on the CPU.

The result is a list of crossings whose length is known only afterwards, so these are plain
functions on NumPy arrays; what is stored on a disk and mapped into memory has to come to the CPU
anyway. They release the interpreter's lock: frames may be swept by several threads at once.

Axes: M models, C class, h w pixels of the probabilities, R W labels of some rows, E crossings, K
bins, J = K + 1 edges; 2 the ends of the line.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from kernels.blend_sweep import cpu, cpu_curve
from kernels.blend_sweep.reference import check

Array = NDArray[Any]


class Crossings(NamedTuple):
    """Where along a line of blends the winners of a frame's pixels change.

    Attributes:
        count_CC: (C, C) int64: pixels by truth and winner at the start.
        share_E: (E,) float64 in (0, 1]: the first number of that precision at which the new winner
            wins; of equal scores the lower class wins. In the order of pixels, not of shares.
        kind_E3: (E, 3) uint8: the pixel's truth, its winner before and from there on.
    """

    count_CC: NDArray[np.int64]
    share_E: NDArray[np.float64]
    kind_E3: NDArray[np.uint8]


def frame_crossings(
    prob_MChw: Sequence[Array],
    end_2MC: NDArray[np.float64],
    label_RW: NDArray[np.uint8],
    rows: tuple[int, int, int],
) -> Crossings:
    """Every change of a winner as the weights go from `end_2MC[0]` to `end_2MC[1]`.

    At share t the score of class c is sum_m ((1 - t) end_0mc + t end_1mc) p_mc, with every model's
    probabilities resized bilinearly to the labels' size; float64 throughout.

    Args:
        prob_MChw: M arrays (C, h, w), float32 or float64, C <= 255; h and w may differ, but then
            they are resized one by one before the walk.
        end_2MC: (2, M, C) finite weights at both ends, of any sign.
        label_RW: (R, W) labels of some rows of the frame, 0 .. C-1 or 255 = ignore.
        rows: (first, step, height): row r of the labels is row first + r step of a frame of that
            height.

    Raises:
        ValueError: the shapes do not fit together.
    """
    check(prob_MChw, end_2MC, label_RW, rows)
    prob, down_R, across_W = _on_one_grid(prob_MChw, label_RW, rows)
    classes = prob.shape[1]
    count_CC = np.empty((classes, classes), np.int64)
    label_RW = np.ascontiguousarray(label_RW)
    found = cpu.crossings(prob, np.ascontiguousarray(end_2MC), label_RW, down_R, across_W, count_CC)
    return Crossings(count_CC, *found)


def soft_counts(
    prob_MChw: Sequence[Array], label_RW: NDArray[np.uint8], rows: tuple[int, int, int]
) -> NDArray[np.float64]:
    """What the soft mIoU of any blend follows from.

    Args:
        prob_MChw: see `frame_crossings`.
        label_RW: see `frame_crossings`.
        rows: see `frame_crossings`.

    Returns:
        (2, M, C) float64: each model's probability of class c summed over the pixels whose truth is
        c, and over all labelled pixels.

    Raises:
        ValueError: the shapes do not fit together.
    """
    classes = prob_MChw[0].shape[0]
    check(prob_MChw, np.ones((2, len(prob_MChw), classes)), label_RW, rows)
    prob, down_R, across_W = _on_one_grid(prob_MChw, label_RW, rows)
    total_2MC = np.empty((2, len(prob), classes))
    cpu.soft_counts(total_2MC, prob, np.ascontiguousarray(label_RW), down_R, across_W)
    return total_2MC


def add_to_bins(
    note_K4C: NDArray[np.int64],
    low_K: NDArray[np.float64],
    high_K: NDArray[np.float64],
    edge_J: NDArray[np.float64],
    crossings: Crossings,
) -> None:
    """Note a frame's crossings in bins along the line.

    Args:
        note_K4C: (K, 4, C) added to: right predictions of each class that come into being in the
            bin and that vanish, then wrong ones.
        low_K: (K,) the lowest share noted in each bin; lowered.
        high_K: (K,) the highest; raised.
        edge_J: (K + 1,) ascending from 0 to 1. A crossing belongs to the bin with
            edge < share <= next edge, so that the counts at an edge have all bins before it.
        crossings: of one frame.
    """
    cpu_curve.add_to_bins(note_K4C, low_K, high_K, edge_J, crossings.share_E, crossings.kind_E3)


def widest_peak(
    edge_J: NDArray[np.float64],
    state_K: NDArray[np.uint8],
    low_K: NDArray[np.float64],
    hit_JC: NDArray[np.int64],
    miss_JC: NDArray[np.int64],
    truth_C: NDArray[np.int64],
    share_E: NDArray[np.float64],
    kind_E3: NDArray[np.uint8],
) -> tuple[float, float, float]:
    """The highest mean IoU on the line and the widest interval that reaches it.

    Args:
        edge_J: (K + 1,) edges of the bins.
        state_K: (K,) `cpu_curve.SKIPPED`: the bin holds no peak; `SINGLE`: it changes at `low_K` at
            most; `LISTED`: its crossings are given.
        low_K: (K,) see `add_to_bins`.
        hit_JC: (K + 1, C) right predictions at the edges.
        miss_JC: (K + 1, C) wrong ones.
        truth_C: (C,) pixels by true class.
        share_E: (E,) the crossings of the LISTED bins, ascending.
        kind_E3: (E, 3) see `Crossings`.

    Returns:
        (mean IoU, from, to): the interval includes its start and, but for 1, not its end.
    """
    found: tuple[float, float, float] = cpu_curve.widest_peak(
        edge_J, state_K, low_K, hit_JC, miss_JC, truth_C, share_E, kind_E3
    )
    return found


def edge_values(
    hit_JC: NDArray[np.int64], miss_JC: NDArray[np.int64], truth_C: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(K + 1,) mean IoU at the edges, by the same arithmetic as that of `widest_peak`."""
    value_J = np.empty(len(hit_JC))
    cpu_curve.edge_values(hit_JC, miss_JC, truth_C, value_J)
    return value_J


def _on_one_grid(
    prob_MChw: Sequence[Array], label_RW: NDArray[np.uint8], rows: tuple[int, int, int]
) -> tuple[Array, cpu.Taps, cpu.Taps]:
    """(M, C, h, w) and how it is resized to the labels."""
    first, step, height = rows
    width = label_RW.shape[1]
    if len({prob.shape for prob in prob_MChw}) > 1:
        # Models of different grids cannot be mixed cell by cell: this frame's are resized first.
        prob_MChw = [
            F.interpolate(
                torch.from_numpy(prob)[None].double(), size=(height, width), mode="bilinear"
            )[0].numpy()
            for prob in prob_MChw
        ]
    prob = np.ascontiguousarray(np.stack(prob_MChw))
    down_H = cpu.taps(height, prob.shape[2])
    row_R = np.arange(first, height, step)
    down_R = (down_H[0][row_R], down_H[1][row_R], down_H[2][row_R])
    return prob, down_R, cpu.taps(width, prob.shape[3])
