"""Depth and label of a crop on the CPU: the nearest pixel of each.

Axes: see reference.py. R: the crop's rows of one task.
"""

import numba
import numpy as np
from numpy.typing import NDArray

_IGNORE_INDEX = 255
_MILLIMETRES_PER_METRE = np.float32(1000.0)

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Indices = NDArray[np.uintp]


@numba.njit(cache=True)
def depth_rows(
    depth_HW: NDArray[np.uint16],
    W: int,
    y_R: _Indices,
    x_w: _Indices,
    inside_R: tuple[int, int],
    inside_w: tuple[int, int],
    out_Rw: _Floats,
) -> None:
    """Metres of the nearest pixels into (R, w) rows; 0 = missing and outside."""
    metres_W = np.empty(W, np.float32)
    for r in range(out_Rw.shape[0]):
        if depth_HW.shape[0] == 0 or not inside_R[0] <= r < inside_R[1]:
            out_Rw[r] = 0
        elif r > inside_R[0] and y_R[r] == y_R[r - 1]:
            out_Rw[r] = out_Rw[r - 1]
        else:
            line_W = depth_HW[y_R[r] * W : y_R[r] * W + W]
            for x in range(W):
                metres_W[x] = np.float32(line_W[x]) / _MILLIMETRES_PER_METRE
            _take(metres_W, x_w, inside_w, 0, out_Rw[r])


@numba.njit(cache=True)
def label_rows(
    label_HW: _Bytes,
    W: int,
    y_R: _Indices,
    x_w: _Indices,
    inside_R: tuple[int, int],
    inside_w: tuple[int, int],
    out_Rw: _Bytes,
) -> None:
    """Labels of the nearest pixels into (R, w) rows; 255 outside."""
    for r in range(out_Rw.shape[0]):
        if label_HW.shape[0] == 0 or not inside_R[0] <= r < inside_R[1]:
            out_Rw[r] = _IGNORE_INDEX
        elif r > inside_R[0] and y_R[r] == y_R[r - 1]:
            out_Rw[r] = out_Rw[r - 1]
        else:
            line_W = label_HW[y_R[r] * W : y_R[r] * W + W]
            _take(line_W, x_w, inside_w, _IGNORE_INDEX, out_Rw[r])


@numba.njit(cache=True)
def _take(
    line_W: NDArray[np.generic],
    x_w: _Indices,
    inside_w: tuple[int, int],
    missing: int,
    out_w: NDArray[np.generic],
) -> None:
    """Nearest pixels of a line inside, `missing` outside."""
    lo, hi = inside_w
    out_w[:lo] = missing
    out_w[hi:] = missing
    index_w, taken_w = x_w[lo:hi], out_w[lo:hi]
    for x in range(index_w.shape[0]):
        taken_w[x] = line_W[index_w[x]]
