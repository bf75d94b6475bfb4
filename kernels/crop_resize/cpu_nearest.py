"""Depth and label of a crop on the CPU: the nearest pixel of each.

Axes: see reference.py. R: the crop's rows of one task.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.cpu import Array, Bytes
from kernels.crop_resize.cpu_vector import stream
from kernels.crop_resize.reference import IGNORE_INDEX
from kernels.vectors import address

PER_METRE = np.float32(1000.0)
"""Depth is stored in millimetres."""


class Side(NamedTuple):
    """Where outputs along one side of a crop sample a side of `length` pixels.

    Of each output the pixel that it lies in, the first of its two taps, and the weight of the next
    pixel; a weight of 0 or 1 repeats the border. Outputs lo .. hi - 1 are inside the frame.
    """

    nearest_r: NDArray[np.uintp]
    tap_r: NDArray[np.uintp]
    weight_r: NDArray[np.float32]
    length: int
    lo: int
    hi: int


@numba.njit(cache=True)
def depth_rows(depth_P: Array, rows: Side, columns: Side, out: np.uintp) -> None:
    """Write rows of metres to an address."""
    nearest_r, x_w, inside_w = rows.nearest_r, columns.nearest_r, (columns.lo, columns.hi)
    line_W, row_w = np.empty(columns.length, np.float32), np.zeros(x_w.shape[0], np.float32)
    bytes_ = np.uintp(row_w.nbytes)
    for r in range(nearest_r.shape[0]):
        if depth_P.shape[0] == 0 or not rows.lo <= r < rows.hi:
            row_w[:] = 0
        elif r == rows.lo or nearest_r[r] != nearest_r[r - 1]:
            metres_line(depth_P, nearest_r[r] * np.uintp(columns.length), line_W)
            take(line_W, np.uintp(0), x_w, inside_w, row_w)
        stream(address(row_w), out, bytes_)
        out += bytes_


@numba.njit(cache=True)
def label_rows(label_P: Bytes, rows: Side, columns: Side, out: np.uintp) -> None:
    """Write rows of classes to an address."""
    nearest_r, x_w, inside_w = rows.nearest_r, columns.nearest_r, (columns.lo, columns.hi)
    row_w = np.full(x_w.shape[0], IGNORE_INDEX, np.uint8)
    bytes_ = np.uintp(row_w.nbytes)
    for r in range(nearest_r.shape[0]):
        if label_P.shape[0] == 0 or not rows.lo <= r < rows.hi:
            row_w[:] = IGNORE_INDEX
        elif r == rows.lo or nearest_r[r] != nearest_r[r - 1]:
            take(label_P, nearest_r[r] * np.uintp(columns.length), x_w, inside_w, row_w)
        stream(address(row_w), out, bytes_)
        out += bytes_


@numba.njit(cache=True, error_model="numpy")
def metres_line(depth_P: Array, first: np.uintp, line_W: Array) -> None:
    """The depth of the line that begins at depth_P[first]."""
    for x in range(line_W.shape[0]):
        line_W[x] = np.float32(depth_P[first + np.uintp(x)]) / PER_METRE


@numba.njit(cache=True)
def take(
    pixels: Array, first: np.uintp, x_w: Array, inside_w: tuple[int, int], out_w: Array
) -> None:
    """The nearest pixels of the line that begins at pixels[first], where that is inside."""
    for x in range(np.uintp(inside_w[0]), np.uintp(inside_w[1])):
        out_w[x] = pixels[first + x_w[x]]


@numba.njit(cache=True, error_model="numpy")  # Python's model tests each divisor for 0
def inverse_depth(depth_w: Array, nearest_m: float, farthest_m: float, out_w: Array) -> None:
    """From 0, far, to 1, near; 0 where missing."""
    low, high = np.float32(nearest_m), np.float32(farthest_m)
    near, far = 1 / nearest_m, 1 / farthest_m
    factor, term = np.float32(1 / (near - far)), np.float32(far)
    for x in range(depth_w.shape[0]):
        inverse = np.float32(1) / min(max(depth_w[x], low), high)
        out_w[x] = (inverse - term) * factor if depth_w[x] > 0 else np.float32(0)
