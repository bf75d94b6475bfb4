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

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.crop_resize.cpu_nearest import depth_rows, inverse_depth, label_rows, metres_line, take
from kernels.crop_resize.cpu_vector import address, lerp_pixel, publish, stream, stream_blend

ROWS_PER_TASK = 96
"""Rows of a crop that one thread makes in a run: few enough to share out, many to reuse lines."""

_HALF, _FLOAT, _PIXEL = np.uintp(2), np.uintp(4), np.uintp(12)
"""Bytes of a bfloat16, of a float32 and of three."""

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Indices = NDArray[np.uintp]


@numba.njit(parallel=True, cache=True)
def crop_resize(
    image: _Bytes,
    depth_P: NDArray[np.uint16],
    label_P: _Bytes,
    offset_N: NDArray[np.int64],
    hw_N2: NDArray[np.int64],
    draw_B8: NDArray[np.float64],
    scale_3: NDArray[np.float64],
    shift_3: NDArray[np.float64],
    depth_range_m: tuple[float, float],
    hwC: tuple[int, int, int],
    crop: _Floats,
    rounded: NDArray[np.uint16],
    metres: _Floats,
    classes: _Bytes,
) -> None:
    """Write the crops of `draw_B8`; see `reference.crop_resize`.

    Args:
        image: (3 P,) pixels.
        depth_P: (P,) millimetres, or (0,) without depth.
        label_P: (P,) classes, or (0,) without labels.
        offset_N: (N,) first pixel of each frame.
        hw_N2: (N, 2) its height and width.
        draw_B8: (B, 8) rows of draws.
        scale_3: 1 / std.
        shift_3: -mean / std.
        depth_range_m: nearest and farthest depth.
        hwC: size of a crop and channels.
        crop: (B h w C,) the image's float32 values; (0,) if they are to be rounded.
        rounded: (B h w C,) the bits of its bfloat16 values; (0,) if they are not.
        metres: (B h w,) depth.
        classes: (B h w,) label.
    """
    h, w, _ = hwC
    tasks = (h + ROWS_PER_TASK - 1) // ROWS_PER_TASK
    for task in numba.prange(len(draw_B8) * tasks):
        b, first = task // tasks, (task % tasks) * ROWS_PER_TASK
        rows = min(ROWS_PER_TASK, h - first)
        sample, top, left, height, width, mirrored, gain, light = draw_B8[b]
        start, (H, W) = offset_N[int(sample)], hw_N2[int(sample)]
        y_R, tap_R, blend_R = _new_taps(rows)
        x_w, tap_w, weight_w = _new_taps(w)
        inside_R = _taps(top, height, H, False, first, h, y_R, tap_R, blend_R)
        inside_w = _taps(left, width, W, mirrored != 0.0, 0, w, x_w, tap_w, weight_w)
        if inside_w[0] == inside_w[1]:
            inside_R = (0, 0)
        pixel = np.uintp((b * h + first) * w)
        lines = (start, W), (y_R, inside_R), (x_w, inside_w)
        depth_rows(depth_P, *lines, metres, pixel)
        label_rows(label_P, *lines, classes, pixel)
        _image_rows(
            (image, depth_P),
            (start, H, W),
            (y_R, tap_R, blend_R, inside_R),
            (x_w, tap_w, weight_w, inside_w),
            (gain * scale_3, 255 * light * scale_3 + shift_3),
            (shift_3, 255 * scale_3 + shift_3),
            depth_range_m,
            hwC[2],
            (crop, rounded),
            pixel,
        )
        publish()


@numba.njit(cache=True)
def _new_taps(count: int) -> tuple[_Indices, _Indices, _Floats]:
    return np.empty(count, np.uintp), np.empty(count, np.uintp), np.empty(count, np.float32)


@numba.njit(cache=True)
def _taps(
    start: float,
    length: float,
    side: int,
    mirrored: bool,
    first: int,
    count: int,
    nearest_r: _Indices,
    tap_r: _Indices,
    weight_r: _Floats,
) -> tuple[int, int]:
    """Where outputs from `first` on, of `count` in all, sample a side of the frame.

    Writes the pixel that each position lies in, the first of its two taps, and the weight of the
    next pixel; a weight of 0 or 1 repeats the border.

    Returns:
        Which of these outputs are inside: from one to before the other.
    """
    step = length / count
    lo, hi = nearest_r.shape[0], 0
    for r in range(nearest_r.shape[0]):
        i = first + r
        position = start + ((count - 1 - i if mirrored else i) + 0.5) * step
        if 0 <= position < side:
            lo, hi = min(lo, r), r + 1
        nearest_r[r] = int(min(max(position, 0.0), side - 1.0))  # truncates, as floor does
        centred = min(max(position - 0.5, 0.0), side - 1.0)
        tap = max(min(int(centred), side - 2), 0)
        tap_r[r], weight_r[r] = tap, centred - tap
    return min(lo, hi), hi


@numba.njit(cache=True)
def _image_rows(
    frames: tuple[_Bytes, NDArray[np.uint16]],
    frame: tuple[int, int, int],
    vertical: tuple[_Indices, _Indices, _Floats, tuple[int, int]],
    horizontal: tuple[_Indices, _Indices, _Floats, tuple[int, int]],
    lit: tuple[NDArray[np.float64], NDArray[np.float64]],
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]],
    depth_range_m: tuple[float, float],
    C: int,
    out: tuple[_Floats, NDArray[np.uint16]],
    pixel: np.uintp,
) -> None:
    """Rows of the network's input, behind `pixel` pixels of others.

    Args:
        frames: the flat image and depth.
        frame: first pixel, height and width of the one that is cropped.
        vertical: nearest lines, first taps, weights, and which rows are inside.
        horizontal: the same for columns.
        lit: factor and term by channel of light and normalisation.
        bounds: what 0 and 255 become by channel.
        depth_range_m: nearest and farthest depth.
        C: channels.
        out: float32, or bits of bfloat16, of which one is empty.
        pixel: counted from the first of the batch.
    """
    (image, depth_P), (start, H, W), (crop, rounded) = frames, frame, out
    (y_R, tap_R, blend_R, inside_R), (x_w, tap_w, weight_w, inside_w) = vertical, horizontal
    n = np.uintp(x_w.shape[0] * C)
    left, right = np.uintp(inside_w[0] * C), np.uintp(inside_w[1] * C)
    factor_4, term_4 = _by_channel(lit[0], 4, 4), _by_channel(lit[1], 4, 4)
    straight = C == 3 and crop.shape[0] > 0  # from the blend to memory, with no row between
    count = 18 if straight else x_w.shape[0] * C
    low, high = _by_channel(bounds[0], C, count), _by_channel(bounds[1], C, count)
    # `lerp_pixel` reads four values for three, of the last pixel the next one's, and writes four.
    pitch = n + np.uintp(1)
    line_l, lines = np.zeros(3 * W + 4, np.float32), np.zeros(2 * pitch, np.float32)
    kept = np.full(2, -1, np.int64)
    value_n, bits_n = np.zeros(n, np.float32), np.empty(n, np.uint16)
    metres_W, metres_w = np.empty(W, np.float32), np.zeros(x_w.shape[0], np.float32)
    inverse_w = np.empty(x_w.shape[0], np.float32)
    for r in range(y_R.shape[0]):
        at = pixel * np.uintp(C) + np.uintp(r) * n
        if inside_R[0] <= r < inside_R[1]:
            above = np.int64(tap_R[r])
            below = above + 1 if above + 1 < H else above
            for y in (above, below):
                if kept[y & 1] != y:
                    _convert(image, np.uintp(3 * (start + y * W)), line_l)
                    _resize(
                        address(line_l),
                        (tap_w, weight_w, inside_w),
                        (address(factor_4), address(term_4)),
                        C,
                        address(lines) + _FLOAT * np.uintp(y & 1) * pitch,
                    )
                    kept[y & 1] = y
            upper, lower = np.uintp(above & 1) * pitch, np.uintp(below & 1) * pitch
            if straight:
                _clear(crop, at, left)
                _clear(crop, at + right, n - right)
                stream_blend(
                    address(lines) + _FLOAT * (upper + left),
                    address(lines) + _FLOAT * (lower + left),
                    blend_R[r],
                    address(low),
                    address(high),
                    address(crop) + _FLOAT * (at + left),
                    right - left,
                )
                continue
            _blend(lines, upper, lower, blend_R[r], low, high, left, right, value_n)
            if C == 4:
                if r == inside_R[0] or y_R[r] != y_R[r - 1]:
                    metres_line(depth_P, np.uintp(start + np.int64(y_R[r]) * W), metres_W)
                    take(metres_W, np.uintp(0), x_w, inside_w, metres_w)
                    inverse_depth(metres_w, depth_range_m, inverse_w)
                _set_fourth(value_n, inverse_w)
        else:
            value_n[:] = 0
        if crop.shape[0]:
            stream(address(value_n), address(crop) + _FLOAT * at, _FLOAT * n)
        else:
            _round(value_n.view(np.uint32), bits_n)
            stream(address(bits_n), address(rounded) + _HALF * at, _HALF * n)


@numba.njit(cache=True)
def _by_channel(value_3: NDArray[np.float64], C: int, count: int) -> _Floats:
    """The three values over and over, a fourth channel 0."""
    out = np.zeros(count, np.float32)
    for channel in range(3):
        out[channel::C] = value_3[channel]
    return out


@numba.njit(cache=True)
def _convert(image: _Bytes, first: np.uintp, line_l: _Floats) -> None:
    """The line of bytes that begins at image[first], as float32; the last four values stay."""
    for j in range(line_l.shape[0] - 4):
        line_l[j] = image[first + np.uintp(j)]


@numba.njit(cache=True)
def _clear(out: _Floats, first: np.uintp, count: np.uintp) -> None:
    for j in range(count):
        out[first + j] = 0


@numba.njit(cache=True)
def _resize(
    line: np.uintp,
    horizontal: tuple[_Indices, _Floats, tuple[int, int]],
    lit: tuple[np.uintp, np.uintp],
    C: int,
    out: np.uintp,
) -> None:
    """A line at the crop's width, inside; the value behind each pixel is left to the next one."""
    (tap_w, weight_w, (lo, hi)), step = horizontal, _FLOAT * np.uintp(C)
    at = out + step * np.uintp(lo)
    for x in range(np.uintp(lo), np.uintp(hi)):
        lerp_pixel(line + tap_w[x] * _PIXEL, weight_w[x], lit[0], lit[1], at)
        at += step


@numba.njit(cache=True, fastmath={"contract", "nnan", "nsz"})
def _blend(
    values: _Floats,
    upper: np.uintp,
    lower: np.uintp,
    weight: np.float32,
    low_n: _Floats,
    high_n: _Floats,
    left: np.uintp,
    right: np.uintp,
    out_n: _Floats,
) -> None:
    for j in range(left, right):
        value = values[upper + j] + weight * (values[lower + j] - values[upper + j])
        out_n[j] = min(max(value, low_n[j]), high_n[j])


@numba.njit(cache=True)
def _set_fourth(value_n: _Floats, fourth_w: _Floats) -> None:
    for x in range(np.uintp(fourth_w.shape[0])):
        value_n[np.uintp(4) * x + np.uintp(3)] = fourth_w[x]


@numba.njit(cache=True)
def _round(bits_n: NDArray[np.uint32], out_n: NDArray[np.uint16]) -> None:
    """float32 to bfloat16, to the nearest and, between two, to the even one."""
    for j in range(out_n.shape[0]):
        bits = bits_n[j]
        out_n[j] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16
