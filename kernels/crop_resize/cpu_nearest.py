"""Depth and label of a crop on the CPU: the nearest pixel of each.

Axes: see reference.py. R: the crop's rows of one task.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.crop_resize.cpu_vector import address, stream

_IGNORE_INDEX = 255
_MILLIMETRES_PER_METRE = np.float32(1000.0)
_FLOAT = np.uintp(4)
"""Bytes of a float32."""

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Indices = NDArray[np.uintp]


@numba.njit(cache=True)
def depth_rows(
    depth_P: NDArray[np.uint16],
    frame: tuple[int, int],
    vertical: tuple[_Indices, tuple[int, int]],
    horizontal: tuple[_Indices, tuple[int, int]],
    out: _Floats,
    pixel: np.uintp,
) -> None:
    """Rows of metres to out[pixel] and on."""
    (start, W), (y_R, inside_R), (x_w, inside_w) = frame, vertical, horizontal
    line_W, row_w = np.empty(W, np.float32), np.zeros(x_w.shape[0], np.float32)
    at, bytes_ = address(out) + _FLOAT * pixel, np.uintp(row_w.nbytes)
    for r in range(y_R.shape[0]):
        if depth_P.shape[0] == 0 or not inside_R[0] <= r < inside_R[1]:
            row_w[:] = 0
        elif r == inside_R[0] or y_R[r] != y_R[r - 1]:
            metres_line(depth_P, np.uintp(start + np.int64(y_R[r]) * W), line_W)
            take(line_W, np.uintp(0), x_w, inside_w, row_w)
        stream(address(row_w), at, bytes_)
        at += bytes_


@numba.njit(cache=True)
def label_rows(
    label_P: _Bytes,
    frame: tuple[int, int],
    vertical: tuple[_Indices, tuple[int, int]],
    horizontal: tuple[_Indices, tuple[int, int]],
    out: _Bytes,
    pixel: np.uintp,
) -> None:
    """Rows of classes to out[pixel] and on."""
    (start, W), (y_R, inside_R), (x_w, inside_w) = frame, vertical, horizontal
    row_w = np.full(x_w.shape[0], _IGNORE_INDEX, np.uint8)
    at, bytes_ = address(out) + pixel, np.uintp(row_w.nbytes)
    for r in range(y_R.shape[0]):
        if label_P.shape[0] == 0 or not inside_R[0] <= r < inside_R[1]:
            row_w[:] = _IGNORE_INDEX
        elif r == inside_R[0] or y_R[r] != y_R[r - 1]:
            take(label_P, np.uintp(start + np.int64(y_R[r]) * W), x_w, inside_w, row_w)
        stream(address(row_w), at, bytes_)
        at += bytes_


@numba.njit(cache=True, error_model="numpy")
def metres_line(depth_P: NDArray[np.uint16], first: np.uintp, line_W: _Floats) -> None:
    """The depth of the line that begins at depth_P[first]."""
    for x in range(line_W.shape[0]):
        line_W[x] = np.float32(depth_P[first + np.uintp(x)]) / _MILLIMETRES_PER_METRE


@numba.njit(cache=True)
def take(
    pixels: NDArray[np.generic],
    first: np.uintp,
    x_w: _Indices,
    inside_w: tuple[int, int],
    out_w: NDArray[np.generic],
) -> None:
    """The nearest pixels of the line that begins at pixels[first], where that is inside."""
    for x in range(np.uintp(inside_w[0]), np.uintp(inside_w[1])):
        out_w[x] = pixels[first + x_w[x]]


@numba.njit(cache=True, error_model="numpy")  # Python's model tests each divisor for 0
def inverse_depth(depth_w: _Floats, depth_range_m: tuple[float, float], out_w: _Floats) -> None:
    """From 0, far, to 1, near; 0 where missing."""
    nearest, farthest = np.float32(depth_range_m[0]), np.float32(depth_range_m[1])
    near, far = 1 / depth_range_m[0], 1 / depth_range_m[1]
    factor, term = np.float32(1 / (near - far)), np.float32(far)
    for x in range(depth_w.shape[0]):
        inverse = np.float32(1) / min(max(depth_w[x], nearest), farthest)
        out_w[x] = (inverse - term) * factor if depth_w[x] > 0 else np.float32(0)
