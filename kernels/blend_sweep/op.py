"""The sweep along a line of blends, one frame at a time, on the CPU.

The result is a list of crossings whose length is known only afterwards, so these are plain
functions on NumPy arrays; what is stored on a disk and mapped into memory has to come to the CPU
anyway. They release the interpreter's lock: frames may be swept by several threads at once.

Axes: M models, C class, h w pixels of the probabilities, R W labels of some rows, E crossings, K
bins, J = K + 1 edges; 2 the ends of the line.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from kernels.blend_sweep import cpu, cpu_pair
from kernels.blend_sweep.reference import check
from kernels.cpu import Array, Bytes, Doubles, Taps, taps


def frame_crossings(
    prob_MChw: Sequence[Array], end_2MC: Doubles, label_RW: Bytes, rows: tuple[int, int, int]
) -> cpu.Crossings:
    """Every change of a winner as the weights go from `end_2MC[0]` to `end_2MC[1]`.

    At share t the score of class c is sum_m ((1 - t) end_0mc + t end_1mc) p_mc, with every model's
    probabilities resized bilinearly to the labels' size; float64 throughout.

    Args:
        prob_MChw: M arrays (C, h, w) of one dtype, float16, float32 or float64, C <= 255; h and w
            may differ, but then they are resized one by one before the walk. From one model alone
            to another, both of float16 and one size, is fastest, and reads each number once.
        end_2MC: (2, M, C) finite weights at both ends, of any sign.
        label_RW: (R, W) labels of some rows of the frame, 0 .. C-1 or 255 = ignore.
        rows: (first, step, height): row r of the labels is row first + r step of a frame of that
            height.

    Raises:
        ValueError: the shapes do not fit together.
    """
    check(prob_MChw, end_2MC, label_RW, rows)
    labels = np.ascontiguousarray(label_RW)
    if bits := _whole_line(prob_MChw, end_2MC):
        taps_RW = _taps(bits[0].shape[1:], label_RW, rows)
        proper, found = cpu_pair.pair_crossings(*bits, labels, *taps_RW)
        if proper:
            return found
    prob, down_R, across_W = _on_one_grid(prob_MChw, label_RW, rows)
    return cpu.crossings(prob, np.ascontiguousarray(end_2MC), labels, down_R, across_W)


def soft_counts(prob_MChw: Sequence[Array], label_RW: Bytes, rows: tuple[int, int, int]) -> Doubles:
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
    return cpu.soft_counts(prob, np.ascontiguousarray(label_RW), down_R, across_W)


def _whole_line(
    prob_MChw: Sequence[Array], end_2MC: Doubles
) -> tuple[cpu_pair.Halves, cpu_pair.Halves] | None:
    """The bits of the models at both ends, where the line goes from one alone to the other."""
    if len({(prob.shape, prob.dtype) for prob in prob_MChw}) > 1:
        return None
    if len(prob_MChw) != 2 or prob_MChw[0].dtype != np.float16:
        return None
    for first in range(2):
        if (end_2MC[:, first].T == (1, 0)).all() and (end_2MC[:, 1 - first].T == (0, 1)).all():
            return _bits(prob_MChw[first]), _bits(prob_MChw[1 - first])
    return None


def _bits(prob_Chw: Array) -> cpu_pair.Halves:
    """Without a copy where they lie in order; read-only, so that Numba compiles one kernel."""
    bits = np.ascontiguousarray(prob_Chw).view(np.ndarray).view(np.uint16)
    bits.flags.writeable = False
    return bits


def _on_one_grid(
    prob_MChw: Sequence[Array], label_RW: Bytes, rows: tuple[int, int, int]
) -> tuple[Array, Taps, Taps]:
    """(M, C, h, w) and how it is resized to the labels."""
    height, width = rows[2], label_RW.shape[1]
    if prob_MChw[0].dtype == np.float16:
        # Torch converts half precision by vector instructions, NumPy bit by bit.
        prob_MChw = [torch.from_numpy(np.array(prob)).float().numpy() for prob in prob_MChw]
    if len({prob.shape for prob in prob_MChw}) > 1:
        # Models of different grids cannot be mixed cell by cell: this frame's are resized first.
        prob_MChw = [
            F.interpolate(
                torch.from_numpy(prob)[None].double(), size=(height, width), mode="bilinear"
            )[0].numpy()
            for prob in prob_MChw
        ]
    prob = np.ascontiguousarray(np.stack(prob_MChw))
    return prob, *_taps(prob.shape[2:], label_RW, rows)


def _taps(
    source_hw: tuple[int, ...], label_RW: Bytes, rows: tuple[int, int, int]
) -> tuple[Taps, Taps]:
    """How rows and columns of the labels read a grid."""
    (h, w), (first, step, height) = source_hw, rows
    down_H, row_R = taps(height, h, np.float64), np.arange(first, height, step)
    down_R = Taps(*(part_H[row_R] for part_H in down_H))
    return down_R, taps(label_RW.shape[1], w, np.float64)
