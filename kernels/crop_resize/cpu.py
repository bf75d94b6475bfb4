"""Crops on the CPU: one pass over each frame's lines, no array between the frame and the crop.

A line of the frame becomes float32 with light and normalisation folded in (they are affine), is
resized to the crop's width, and kept while rows of the crop lie between it and the next: enlarging
a frame costs one vectorised blend of two kept lines for each row. What the light may have pushed
out of 0..255 is clipped after the blend, as the definition has it.

Indices into arrays are unsigned where it pays: Numba then drops the test for negative ones, and
LLVM vectorises the loop.

Axes: see reference.py. R: the crop's rows of one task. l: values of a frame's line, 3 W. n: values
of a crop's row, w C.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.crop_resize.cpu_nearest import depth_rows, label_rows

ROWS_PER_TASK = 96
"""Rows of a crop that one thread makes in a run: few enough to share out, many to reuse lines."""

_GREEN, _BLUE, _NEXT = np.uintp(1), np.uintp(2), np.uintp(3)

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
    crop_Bhn: _Floats,
    rounded_Bhn: NDArray[np.uint16],
    depth_Bhw: _Floats,
    label_Bhw: _Bytes,
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
        crop_Bhn: (B, h, n) the image's float32 values; (B, h, 0) if they are to be rounded.
        rounded_Bhn: (B, h, n) the bits of its bfloat16 values; (B, h, 0) if they are not.
        depth_Bhw: (B, h, w) metres.
        label_Bhw: (B, h, w) classes.
    """
    B, h, w = depth_Bhw.shape
    tasks = (h + ROWS_PER_TASK - 1) // ROWS_PER_TASK
    for task in numba.prange(B * tasks):
        b, first = task // tasks, (task % tasks) * ROWS_PER_TASK
        rows = slice(first, min(first + ROWS_PER_TASK, h))
        R = min(ROWS_PER_TASK, h - first)
        sample, top, left, height, width, mirrored, gain, light = draw_B8[b]
        start, (H, W) = offset_N[int(sample)], hw_N2[int(sample)]
        y_R, tap_R, blend_R = _new_taps(R)
        x_w, tap_w, weight_w = _new_taps(w)
        inside_R = _taps(top, height, H, False, first, h, y_R, tap_R, blend_R)
        inside_w = _taps(left, width, W, mirrored != 0.0, 0, w, x_w, tap_w, weight_w)
        if inside_w[0] == inside_w[1]:
            inside_R = (0, 0)

        depth_Rw, label_Rw = depth_Bhw[b, rows], label_Bhw[b, rows]
        pixels = slice(start, start + H * W)
        depth_rows(depth_P[pixels], W, y_R, x_w, inside_R, inside_w, depth_Rw)
        label_rows(label_P[pixels], W, y_R, x_w, inside_R, inside_w, label_Rw)
        lit = gain * scale_3, 255 * light * scale_3 + shift_3
        _image_rows(
            image[3 * start : 3 * (start + H * W)],
            (H, W),
            (tap_R, blend_R, inside_R),
            (tap_w, weight_w, inside_w),
            lit,
            (shift_3, 255 * scale_3 + shift_3),
            gain < 0 or light < 0 or gain + light > 1,
            depth_Rw,
            depth_range_m,
            crop_Bhn[b, rows],
            rounded_Bhn[b, rows],
        )


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
    image: _Bytes,
    hw: tuple[int, int],
    vertical: tuple[_Indices, _Floats, tuple[int, int]],
    horizontal: tuple[_Indices, _Floats, tuple[int, int]],
    lit: tuple[NDArray[np.float64], NDArray[np.float64]],
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]],
    clips: bool,
    depth_Rw: _Floats,
    depth_range_m: tuple[float, float],
    out_Rn: _Floats,
    rounded_Rn: NDArray[np.uint16],
) -> None:
    """The network's input; factor and term in `lit`, lowest and highest in `bounds`, by channel."""
    H, W = hw
    (tap_R, blend_R, inside_R), (tap_w, weight_w, inside_w) = vertical, horizontal
    R, w = depth_Rw.shape
    rounded = rounded_Rn.shape[1] > 0
    n = rounded_Rn.shape[1] if rounded else out_Rn.shape[1]
    C = n // w
    factor_l, term_l = _by_channel(lit[0], 3, 3 * W), _by_channel(lit[1], 3, 3 * W)
    low_n, high_n = _by_channel(bounds[0], C, n), _by_channel(bounds[1], C, n)
    inside_n = slice(inside_w[0] * C, inside_w[1] * C)
    line_l = np.zeros(3 * W + 3, np.float32)  # the last pixel has a next one, of weight 0
    kept_2n, kept = np.zeros((2, n), np.float32), np.full(2, -1, np.int64)
    inverse_w, unrounded_n = np.empty(w, np.float32), np.empty(n if rounded else 0, np.float32)
    for r in range(R):
        out_n = unrounded_n if rounded else out_Rn[r]
        if not inside_R[0] <= r < inside_R[1]:
            out_n[:] = 0
        else:
            above = np.int64(tap_R[r])
            below = above + 1 if above + 1 < H else above
            for y in (above, below):
                if kept[y & 1] != y:
                    _convert(image[3 * y * W : 3 * (y + 1) * W], factor_l, term_l, line_l)
                    _resize(line_l, tap_w, weight_w, inside_w, np.uintp(C), kept_2n[y & 1])
                    kept[y & 1] = y
            out_n[: inside_n.start] = 0
            out_n[inside_n.stop :] = 0
            upper_n, lower_n = kept_2n[above & 1, inside_n], kept_2n[below & 1, inside_n]
            if clips:
                low, high = low_n[inside_n], high_n[inside_n]
                _blend_and_clip(upper_n, lower_n, blend_R[r], low, high, out_n[inside_n])
            else:
                _blend(upper_n, lower_n, blend_R[r], out_n[inside_n])
            if C == 4:
                _inverse_depth(depth_Rw[r], depth_range_m, inverse_w)
                out_n[3::4] = inverse_w
        if rounded:
            _round(unrounded_n.view(np.uint32), rounded_Rn[r])


@numba.njit(cache=True)
def _by_channel(value_3: NDArray[np.float64], C: int, count: int) -> _Floats:
    """The three values over and over, a fourth channel 0."""
    out = np.zeros(count, np.float32)
    for channel in range(3):
        out[channel::C] = value_3[channel]
    return out


@numba.njit(cache=True, fastmath={"contract"})
def _convert(line: _Bytes, factor_l: _Floats, term_l: _Floats, out_l: _Floats) -> None:
    for j in range(line.shape[0]):
        out_l[j] = factor_l[j] * np.float32(line[j]) + term_l[j]


@numba.njit(cache=True, fastmath={"contract"})
def _resize(
    line_l: _Floats,
    tap_w: _Indices,
    weight_w: _Floats,
    inside_w: tuple[int, int],
    C: np.uintp,
    out_n: _Floats,
) -> None:
    """A line at the crop's width, inside; channels are written out: a loop over them is slower."""
    out = np.uintp(inside_w[0]) * C
    for x in range(inside_w[0], inside_w[1]):
        tap, weight = tap_w[x] * _NEXT, weight_w[x]
        after = tap + _NEXT
        red, green, blue = line_l[tap], line_l[tap + _GREEN], line_l[tap + _BLUE]
        out_n[out] = red + weight * (line_l[after] - red)
        out_n[out + _GREEN] = green + weight * (line_l[after + _GREEN] - green)
        out_n[out + _BLUE] = blue + weight * (line_l[after + _BLUE] - blue)
        out += C


@numba.njit(cache=True, fastmath={"contract"})
def _blend(upper_n: _Floats, lower_n: _Floats, weight: np.float32, out_n: _Floats) -> None:
    for j in range(out_n.shape[0]):
        out_n[j] = upper_n[j] + weight * (lower_n[j] - upper_n[j])


@numba.njit(cache=True, fastmath={"contract", "nnan", "nsz"})
def _blend_and_clip(
    upper_n: _Floats,
    lower_n: _Floats,
    weight: np.float32,
    low_n: _Floats,
    high_n: _Floats,
    out_n: _Floats,
) -> None:
    for j in range(out_n.shape[0]):
        value = upper_n[j] + weight * (lower_n[j] - upper_n[j])
        out_n[j] = min(max(value, low_n[j]), high_n[j])


@numba.njit(cache=True)
def _inverse_depth(depth_w: _Floats, depth_range_m: tuple[float, float], out_w: _Floats) -> None:
    """From 0, far, to 1, near; 0 where missing."""
    nearest, farthest = np.float32(depth_range_m[0]), np.float32(depth_range_m[1])
    near, far = 1 / depth_range_m[0], 1 / depth_range_m[1]
    factor, term = np.float32(1 / (near - far)), np.float32(far)
    for x in range(depth_w.shape[0]):
        inverse = np.float32(1) / min(max(depth_w[x], nearest), farthest)
        out_w[x] = (inverse - term) * factor if depth_w[x] > 0 else np.float32(0)


@numba.njit(cache=True)
def _round(bits_n: NDArray[np.uint32], out_n: NDArray[np.uint16]) -> None:
    """float32 to bfloat16, to the nearest and, between two, to the even one."""
    for j in range(out_n.shape[0]):
        bits = bits_n[j]
        out_n[j] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16
