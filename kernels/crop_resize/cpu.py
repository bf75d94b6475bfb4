"""Crops on the CPU: one pass over each frame's lines, no array between the frame and the crop.

A line of the frame is resized to the crop's width, with light and normalisation folded in (they are
affine), and kept while rows of the crop lie between it and the next: enlarging a frame costs one
vectorised blend of two kept lines for each row. What the light may have pushed out of 0..255 is
clipped after the blend, as the definition has it. Rows go to memory past the cache.

Indices into arrays are unsigned where it pays: Numba then drops the test for negative ones, and
LLVM vectorises the loop.

Axes: see reference.py. R: the crop's rows of one task. l: values of a frame's line, 3 W + 4. n:
values of a crop's row, w C.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba import float32, float64, int64, types, uint8, uint16
from numpy.typing import NDArray
from torch import Tensor

from kernels.cpu import Array, Bytes, Doubles, Integers, typed
from kernels.crop_resize import cpu_nearest as nearest
from kernels.crop_resize.cpu_nearest import Side
from kernels.crop_resize.cpu_vector import lerp_pixel, publish, stream, stream_blend
from kernels.crop_resize.reference import Crops, Frames
from kernels.threads import cpu_threads
from kernels.vectors import FLOAT, address

ROWS_PER_TASK = 96
"""Rows of a crop that one thread makes in a run: few enough to share out, many to reuse lines."""

_HALF, _PIXEL = np.uintp(2), np.uintp(12)
"""Bytes of a bfloat16 and of three float32."""


class Pixels(NamedTuple):
    """`Frames`, or one of them, in flat arrays; what is not there has none."""

    image: Bytes
    depth_P: NDArray[np.uint16]
    label_P: Bytes


class Scale(NamedTuple):
    """How values become the network's input.

    Attributes:
        factor_3: by channel, 1 / std.
        term_3: added then, -mean / std.
        nearest_m: depth that is 1.
        farthest_m: depth that is 0.
        channels: of the input, C.
    """

    factor_3: Doubles
    term_3: Doubles
    nearest_m: float
    farthest_m: float
    channels: int


class Outputs(NamedTuple):
    """Flat crops: the image as float32 or as bits of bfloat16, of which one is empty; the maps."""

    crop: NDArray[np.float32]
    rounded: NDArray[np.uint16]
    metres: NDArray[np.float32]
    classes: Bytes


@cpu_threads()
def crop_resize(frames: Frames, draw_B8: Tensor, numbers: Sequence[float], outputs: Crops) -> None:
    """Write crops, channels last; see `op._crop_resize`."""
    image, (_, h, w, C) = outputs.image_BChw.flatten(), outputs.image_BChw.shape
    # NumPy has no bfloat16: the kernel writes its bits. What is not there is an empty array.
    rounds = image.dtype == torch.bfloat16
    _crop_tasks(
        Pixels(*map(_flat, frames[:3], (torch.uint8, torch.uint16, torch.uint8))),
        (frames.offset_N.numpy(), frames.hw_N2.numpy()),
        draw_B8.contiguous().numpy(),
        Scale(np.array(numbers[:3]), np.array(numbers[3:6]), numbers[6], numbers[7], C),
        (h, w),
        Outputs(
            _flat(None if rounds else image, torch.float32),
            _flat(image.view(torch.uint16) if rounds else None, torch.uint16),
            outputs.depth_Bhw.flatten().numpy(),
            outputs.label_Bhw.flatten().numpy(),
        ),
    )


def _flat(buffer: Tensor | None, dtype: torch.dtype) -> Array:
    array: Array = (torch.empty(0, dtype=dtype) if buffer is None else buffer).flatten().numpy()
    return array


@numba.njit(parallel=True, cache=True)
def _crop_tasks(
    pixels: Pixels,
    where: tuple[Integers, Integers],
    draw_B8: Doubles,
    scale: Scale,
    hw: tuple[int, int],
    out: Outputs,
) -> None:
    """Crops of the frames that begin at where[0], (N,), and are of the sizes where[1], (N, 2)."""
    offset_N, hw_N2 = where
    (h, w), C = hw, scale.channels
    tasks = (h + ROWS_PER_TASK - 1) // ROWS_PER_TASK
    for task in numba.prange(len(draw_B8) * tasks):
        b, first = task // tasks, (task % tasks) * ROWS_PER_TASK
        sample, top, left, height, width, mirrored, gain, light = draw_B8[b]
        start, (H, W) = offset_N[int(sample)], hw_N2[int(sample)]
        rows = _side((top, height), H, False, h, first, min(ROWS_PER_TASK, h - first))
        columns = _side((left, width), W, mirrored != 0.0, w, 0, w)
        # A box beside the frame: no column has pixels, so no row has.
        if columns.lo == columns.hi:
            rows = Side(rows.nearest_r, rows.tap_r, rows.weight_r, H, 0, 0)
        at = (b * h + first) * w
        frame = Pixels(pixels.image[3 * start :], pixels.depth_P[start:], pixels.label_P[start:])
        image, bits = out.crop[C * at :], out.rounded[C * at :]
        to = Outputs(image, bits, out.metres[at:], out.classes[at:])
        nearest.depth_rows(frame.depth_P, rows, columns, address(to.metres))
        nearest.label_rows(frame.label_P, rows, columns, address(to.classes))
        _image_rows(frame, rows, columns, scale, (gain, 255 * light), to)
        publish()


SPECIALISATIONS = (
    (
        _crop_tasks,
        (
            typed(Pixels, uint8[::1], uint16[::1], uint8[::1]),
            types.Tuple((int64[::1], int64[:, ::1])),  # type: ignore[no-untyped-call]
            float64[:, ::1],
            typed(Scale, float64[::1], float64[::1], float64, float64, int64),
            types.UniTuple(int64, 2),  # type: ignore[no-untyped-call]
            typed(Outputs, float32[::1], uint16[::1], float32[::1], uint8[::1]),
        ),
    ),
)
"""What training calls, see `kernels.ahead`."""


@numba.njit(cache=True)
def _side(
    box: tuple[float, float], length: int, mirrored: bool, count: int, first: int, outputs: int
) -> Side:
    """Where so many outputs from `first` on, of `count` in all, sample a side of a frame.

    The box is its start and length, in pixels of the frame.
    """
    nearest_r, tap_r = np.empty(outputs, np.uintp), np.empty(outputs, np.uintp)
    weight_r = np.empty(outputs, np.float32)
    step = box[1] / count
    lo, hi = outputs, 0
    for r in range(outputs):
        i = first + r
        position = box[0] + ((count - 1 - i if mirrored else i) + 0.5) * step
        if 0 <= position < length:
            lo, hi = min(lo, r), r + 1
        nearest_r[r] = int(min(max(position, 0.0), length - 1.0))  # truncates, as floor does
        centred = min(max(position - 0.5, 0.0), length - 1.0)
        tap = max(min(int(centred), length - 2), 0)
        tap_r[r], weight_r[r] = tap, centred - tap
    return Side(nearest_r, tap_r, weight_r, length, min(lo, hi), hi)


@numba.njit(cache=True)
def _image_rows(
    frame: Pixels, rows: Side, columns: Side, scale: Scale, light: tuple[float, float], out: Outputs
) -> None:
    """Rows of the network's input; `light` is a factor and a term of the frame's values."""
    crop, rounded, C, w = out.crop, out.rounded, scale.channels, columns.tap_r.shape[0]
    n = np.uintp(w * C)
    inside_w = columns.lo, columns.hi
    left, right = np.uintp(inside_w[0] * C), np.uintp(inside_w[1] * C)
    factor_3, term_3 = scale.factor_3, scale.term_3
    lit_24 = _by_channel(light[0] * factor_3, light[1] * factor_3 + term_3, 4, 4)
    straight = C == 3 and crop.shape[0] > 0  # from the blend to memory, with no row between
    count = 18 if straight else w * C
    bound_2n = _by_channel(term_3, 255 * factor_3 + term_3, C, count)  # what 0 and 255 become
    # `lerp_pixel` reads four values for three, of the last pixel the next one's, and writes four.
    pitch = n + np.uintp(1)
    line_l, lines = np.zeros(3 * columns.length + 4, np.float32), np.zeros(2 * pitch, np.float32)
    kept = np.full(2, -1, np.int64)
    value_n, bits_n = np.zeros(n, np.float32), np.empty(n, np.uint16)
    metres_W = np.empty(columns.length, np.float32)
    metres_w, inverse_w = np.zeros(w, np.float32), np.empty(w, np.float32)
    for r in range(rows.tap_r.shape[0]):
        at = np.uintp(r) * n
        if rows.lo <= r < rows.hi:
            above = np.int64(rows.tap_r[r])
            below = above + 1 if above + 1 < rows.length else above
            # A frame's row is resized across once and serves all crop rows between it and its
            # neighbours; even and odd rows have a place each, so the two that are needed are never
            # in one place.
            for y in (above, below):
                if kept[y & 1] != y:
                    _convert(frame.image, np.uintp(3 * y * columns.length), line_l)
                    line = address(lines) + FLOAT * np.uintp(y & 1) * pitch
                    _resize(address(line_l), columns, address(lit_24), C, line)
                    kept[y & 1] = y
            upper, lower = np.uintp(above & 1) * pitch, np.uintp(below & 1) * pitch
            if straight:
                line, to = address(lines) + FLOAT * left, address(crop) + FLOAT * at
                pair = line + FLOAT * upper, line + FLOAT * lower
                bounds = address(bound_2n), address(bound_2n) + FLOAT * np.uintp(count)
                stream(address(value_n), to, FLOAT * left)  # zeros, as on the right
                stream_blend(pair, rows.weight_r[r], bounds, to + FLOAT * left, right - left)
                stream(address(value_n), to + FLOAT * right, FLOAT * (n - right))
                continue
            _blend(lines, (upper, lower), rows.weight_r[r], bound_2n, (left, right), value_n)
            if C == 4:
                if r == rows.lo or rows.nearest_r[r] != rows.nearest_r[r - 1]:
                    line = rows.nearest_r[r] * np.uintp(columns.length)
                    nearest.metres_line(frame.depth_P, line, metres_W)
                    nearest.take(metres_W, np.uintp(0), columns.nearest_r, inside_w, metres_w)
                    nearest.inverse_depth(metres_w, scale.nearest_m, scale.farthest_m, inverse_w)
                _set_fourth(value_n, inverse_w)
        else:
            value_n[:] = 0
        # Past the caches: nobody reads the crop before the network does.
        if crop.shape[0]:
            stream(address(value_n), address(crop) + FLOAT * at, FLOAT * n)
        else:
            _round(value_n.view(np.uint32), bits_n)
            stream(address(bits_n), address(rounded) + _HALF * at, _HALF * n)


@numba.njit(cache=True)
def _by_channel(first_3: Doubles, second_3: Doubles, C: int, count: int) -> Array:
    """(2, count): three values over and over, a fourth channel 0."""
    out_2n = np.zeros((2, count), np.float32)
    for channel in range(3):
        out_2n[0, channel::C], out_2n[1, channel::C] = first_3[channel], second_3[channel]
    return out_2n


@numba.njit(cache=True)
def _convert(image: Array, first: np.uintp, line_l: Array) -> None:
    """The line of bytes that begins at image[first], as float32; the last four values stay."""
    for j in range(line_l.shape[0] - 4):
        line_l[j] = image[first + np.uintp(j)]


@numba.njit(cache=True)
def _resize(line: np.uintp, columns: Side, lit_24: np.uintp, C: int, out: np.uintp) -> None:
    """A line at the crop's width, inside; the value behind each pixel is left to the next one."""
    factor, term = lit_24, lit_24 + FLOAT * np.uintp(4)
    step = FLOAT * np.uintp(C)
    at = out + step * np.uintp(columns.lo)
    for x in range(np.uintp(columns.lo), np.uintp(columns.hi)):
        lerp_pixel(line + columns.tap_r[x] * _PIXEL, columns.weight_r[x], factor, term, at)
        at += step


@numba.njit(cache=True, fastmath={"contract", "nnan", "nsz"})
def _blend(
    values: Array,
    pair: tuple[np.uintp, np.uintp],
    weight: np.float32,
    bound_2n: Array,
    inside: tuple[np.uintp, np.uintp],
    out_n: Array,
) -> None:
    """Between two lines, which begin at values[pair[0]] and values[pair[1]], within bounds."""
    upper, lower = pair
    for j in range(inside[0], inside[1]):
        value = values[upper + j] + weight * (values[lower + j] - values[upper + j])
        out_n[j] = min(max(value, bound_2n[0, j]), bound_2n[1, j])


@numba.njit(cache=True)
def _set_fourth(value_n: Array, fourth_w: Array) -> None:
    for x in range(np.uintp(fourth_w.shape[0])):
        value_n[np.uintp(4) * x + np.uintp(3)] = fourth_w[x]


@numba.njit(cache=True)
def _round(bits_n: NDArray[np.uint32], out_n: NDArray[np.uint16]) -> None:
    """float32 to bfloat16, to the nearest and, between two, to the even one."""
    for j in range(out_n.shape[0]):
        bits = bits_n[j]
        out_n[j] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16
