"""Crops on the GPU: each program makes a run of pixels of one row of one crop.

Where a pixel reads is in tables of the crop's rows and columns, made on the host (launch.py).

Axes: see reference.py. k: pixels of one program.
"""

import triton
import triton.language as tl


@triton.jit
def crop_rows(
    image,
    depth,
    label,
    start_B,
    row_B4h,
    column_B4w,
    light_B2,
    crop_BhwC,
    depth_Bhw,
    label_Bhw,
    h,
    w,
    scale_r,
    scale_g,
    scale_b,
    shift_r,
    shift_g,
    shift_b,
    nearest_m,
    farthest_m,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Pixels [BLOCK p, BLOCK p + BLOCK) of row i of crop b; the grid is (p, i, b)."""
    i = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * BLOCK
    k = first + tl.arange(0, BLOCK)
    exists = k < w
    start = tl.load(start_B + b)
    row = row_B4h + b * 4 * h + i
    upper, lower, down = tl.load(row), tl.load(row + h), _float(tl.load(row + 2 * h))
    nearest_row = tl.load(row + 3 * h)
    column = column_B4w + b * 4 * w + k
    before, after = tl.load(column, exists, 0), tl.load(column + w, exists, 0)
    across = _float(tl.load(column + 2 * w, exists, 0))
    nearest_column = tl.load(column + 3 * w, exists, -1)
    # -1 outside, along either axis.
    inside = tl.minimum(nearest_row, nearest_column) >= 0
    nearest = start + nearest_row + nearest_column
    out = (b * h + i) * w
    gain, light = tl.load(light_B2 + 2 * b), tl.load(light_B2 + 2 * b + 1)

    metres = tl.zeros([BLOCK], tl.float32)
    if depth is not None:
        whole = tl.load(depth + nearest, inside, 0).to(tl.float32)
        # Divided with one rounding, as everywhere, so that all agree to the bit.
        metres = tl.div_rn(whole, tl.full(whole.shape, 1000.0, tl.float32))
    tl.store(depth_Bhw + out + k, metres, exists)
    classes = tl.full([BLOCK], 255, tl.uint8)
    if label is not None:
        classes = tl.load(label + nearest, inside, 255)
    tl.store(label_Bhw + out + k, classes, exists)

    frame = image + 3 * start
    above_left, above_right = frame + 3 * (upper + before), frame + 3 * (upper + after)
    below_left, below_right = frame + 3 * (lower + before), frame + 3 * (lower + after)
    colours = ()  # type: tuple[tl.tensor, ...]
    for c in tl.static_range(3):
        # Unmasked: outside the taps repeat the border.
        value = _between(above_left + c, above_right + c, across)
        value += down * (_between(below_left + c, below_right + c, across) - value)
        value = tl.minimum(tl.maximum(value * gain + light, 0.0), 255.0)
        scale = scale_r if c == 0 else (scale_g if c == 1 else scale_b)
        shift = shift_r if c == 0 else (shift_g if c == 1 else shift_b)
        value = tl.where(inside, value * scale + shift, 0.0)
        colours += (value.to(crop_BhwC.dtype.element_ty),)
    if C == 4:
        # The four of a pixel become one store of its thread.
        inverse = _inverse(metres, nearest_m, farthest_m).to(crop_BhwC.dtype.element_ty)
        red_blue = tl.interleave(colours[0], colours[2])
        values = tl.interleave(red_blue, tl.interleave(colours[1], inverse))
        at = 4 * first + tl.arange(0, 4 * BLOCK)
        tl.store(crop_BhwC + 4 * out + at, values, at < 4 * w)
    else:
        for c in tl.static_range(3):
            tl.store(crop_BhwC + 3 * (out + k) + c, colours[c], exists)


@triton.jit
def _float(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _between(left, right, across):
    """One channel between two pixels of a line."""
    a = tl.load(left).to(tl.float32)
    b = tl.load(right).to(tl.float32)
    return a + across * (b - a)


@triton.jit
def _inverse(metres, nearest_m, farthest_m):
    """Inverse depth from 0 (far) to 1 (near); 0 where missing."""
    near, far = 1.0 / nearest_m, 1.0 / farthest_m
    inverse = 1.0 / tl.minimum(tl.maximum(metres, nearest_m), farthest_m)
    return tl.where(metres > 0, (inverse - far) / (near - far), 0.0)
