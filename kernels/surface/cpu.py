"""Surface normals on the CPU: one pass a row, each tap a vectorised loop over it; and crops.

Axes: see reference.py. The sums of a row: see there.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.cpu import FAST, Array
from kernels.surface.reference import LEAST, NEAR, RADIUS, STEP

_NEAR, _LEAST = np.float32(NEAR), np.float32(LEAST)
_HALF, _ONE, _ZERO = np.float32(0.5), np.float32(1), np.float32(0)


def surface_normals(inverse_HW: NDArray[np.float32], pitch: float) -> NDArray[np.float32]:
    """`reference.surface_normals` in float32, by the calling thread alone; lets others run.

    An array that is not 2-D float32, or a pitch that is not positive, is a ValueError.
    """
    if inverse_HW.ndim != 2 or inverse_HW.dtype != np.float32 or not pitch > 0:
        raise ValueError(
            "inverse depth must be (H, W) float32 and its pitch positive, got "
            f"{inverse_HW.shape} {inverse_HW.dtype} and {pitch}"
        )
    normal_HW3 = np.empty((*inverse_HW.shape, 3), np.float32)
    around = np.pad(inverse_HW, RADIUS * STEP)
    _fit(np.ascontiguousarray(inverse_HW), around, np.float32(pitch), normal_HW3)
    return normal_HW3


@numba.njit(cache=True, nogil=True, error_model="numpy")
def append_row(
    image_HWC: Array,
    depth_HW: Array,
    cells_hw4: Array,
    where: tuple[Array, Array],
    sign_K: Array,
    whole_HWD: Array,
) -> None:
    """Write one row of a batch; see `op.append_cells`."""
    (H, W, C), K, (row_H, column_W) = image_HWC.shape, sign_K.shape[0], where
    factor_K = sign_K / np.float32(127)
    for y in range(H):
        image_WC, depth_W, whole_WD = image_HWC[y], depth_HW[y], whole_HWD[y]
        cells_w4 = cells_hw4[row_H[y]]
        for c in range(np.uintp(C)):
            for x in range(np.uintp(W)):
                whole_WD[x, c] = image_WC[x, c]
        for k in range(np.uintp(K)):
            for x in range(np.uintp(W)):
                part = np.float32(cells_w4[np.uintp(column_W[x]), k]) * factor_K[k]
                whole_WD[x, np.uintp(C) + k] = part if depth_W[x] > _ZERO else _ZERO


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _add(own_W: Array, tap_W: Array, i: np.float32, line_5W: Array) -> None:
    """Add a tap to the sums along a line: 1, i, i i, e, e i."""
    for x in range(np.uintp(own_W.shape[0])):
        e = tap_W[x] - own_W[x]
        one = _ONE if abs(e) < _NEAR * own_W[x] else _ZERO
        e, along = e * one, one * i
        line_5W[0, x] += one
        line_5W[1, x] += along
        line_5W[2, x] += along * i
        line_5W[3, x] += e
        line_5W[4, x] += e * i


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _fit(own_HW: Array, around: Array, pitch: np.float32, normal_HW3: Array) -> None:
    H, W = own_HW.shape
    sums_9W, line_5W = np.empty((9, W), np.float32), np.empty((5, W), np.float32)
    for y in range(H):
        sums_9W[:] = 0
        for row in range(2 * RADIUS + 1):
            line_5W[:] = 0
            tap = around[y + row * STEP]
            for column in range(2 * RADIUS + 1):
                first = column * STEP
                _add(own_HW[y], tap[first : first + W], np.float32(column - RADIUS), line_5W)
            j = np.float32(row - RADIUS)
            for x in range(np.uintp(W)):
                sums_9W[0, x] += line_5W[0, x]
                sums_9W[1, x] += line_5W[1, x]
                sums_9W[2, x] += line_5W[0, x] * j
                sums_9W[3, x] += line_5W[2, x]
                sums_9W[4, x] += line_5W[1, x] * j
                sums_9W[5, x] += line_5W[0, x] * (j * j)
                sums_9W[6, x] += line_5W[3, x]
                sums_9W[7, x] += line_5W[4, x]
                sums_9W[8, x] += line_5W[3, x] * j
        v = (np.float32(y) + _HALF - _HALF * np.float32(H)) * pitch
        _solve(own_HW[y], sums_9W, v, pitch, normal_HW3[y])


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _solve(
    own_W: Array, sums_9W: Array, v: np.float32, pitch: np.float32, normal_W3: Array
) -> None:
    W, unit = own_W.shape[0], np.float32(STEP) * pitch
    for x in range(np.uintp(W)):
        n, own = sums_9W[0, x], own_W[x]
        i, j, e = sums_9W[1, x] / n, sums_9W[2, x] / n, sums_9W[6, x] / n
        ii, ij = sums_9W[3, x] - n * i * i, sums_9W[4, x] - n * i * j
        jj = sums_9W[5, x] - n * j * j
        ie, je = sums_9W[7, x] - n * i * e, sums_9W[8, x] - n * j * e
        det = ii * jj - ij * ij
        if not (own > _ZERO and det >= _LEAST):
            normal_W3[x, 0], normal_W3[x, 1], normal_W3[x, 2] = _ZERO, _ZERO, _ZERO
            continue
        a, b = (ie * jj - je * ij) / det, (je * ii - ie * ij) / det
        level = own + e - a * i - b * j
        a, b = a / unit, b / unit
        u = (np.float32(x) + _HALF - _HALF * np.float32(W)) * pitch
        ahead = level - a * u - b * v
        length = -_ONE / np.sqrt(a * a + b * b + ahead * ahead)
        normal_W3[x, 0], normal_W3[x, 1], normal_W3[x, 2] = a * length, b * length, ahead * length
