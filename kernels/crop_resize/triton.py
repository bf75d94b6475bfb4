"""Crops on the GPU: each program makes a run of pixels of one row of one crop.

Values of the image are taken one by one in the order of memory (pixel, then channel), so that
every store is a contiguous run; the taps are worked out again for each, which costs less than
memory does.

Axes: see reference.py. k: values or pixels of one program.
"""

import triton
import triton.language as tl


@triton.jit
def crop_rows(
    image,
    depth,
    label,
    offset_N,
    hw_N2,
    draw_B8,
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
    draw = draw_B8 + 8 * b
    sample = tl.load(draw).to(tl.int64)
    top, left = tl.load(draw + 1), tl.load(draw + 2)
    y_step, x_step = tl.load(draw + 3) / h, tl.load(draw + 4) / w
    mirrored = tl.load(draw + 5) != 0
    origin, direction = tl.where(mirrored, w - 1, 0), tl.where(mirrored, -1, 1)
    gain, light = tl.load(draw + 6).to(tl.float32), tl.load(draw + 7).to(tl.float32) * 255
    start = tl.load(offset_N + sample)
    H, W = tl.load(hw_N2 + 2 * sample), tl.load(hw_N2 + 2 * sample + 1)

    y = top + (i.to(tl.float64) + 0.5) * y_step
    # A row outside has no column inside. (The interpreter cannot broadcast a lone truth value.)
    inside_W = tl.where((y >= 0) & (y < H), W, 0)
    line, line_weight = _first_tap(y, H)
    upper = start + line * W
    lower = start + tl.minimum(line + 1, H - 1) * W
    nearest = start + _nearest(y, H) * W
    out_row = (b * h + i) * w

    first = tl.program_id(0) * BLOCK
    for part in tl.static_range(C):
        k = first * C + part * BLOCK + tl.arange(0, BLOCK)
        exists = k < w * C
        channel = k % C
        x = left + ((origin + direction * (k // C)).to(tl.float64) + 0.5) * x_step
        inside = exists & (x >= 0) & (x < inside_W)
        colour = inside & (channel < 3)
        value = _lerp(image, upper, x, W, channel, colour)
        value += line_weight * (_lerp(image, lower, x, W, channel, colour) - value)
        value = tl.minimum(tl.maximum(value * gain + light, 0.0), 255.0)
        scale = tl.where(channel == 0, scale_r, tl.where(channel == 1, scale_g, scale_b))
        shift = tl.where(channel == 0, shift_r, tl.where(channel == 1, shift_g, shift_b))
        value = value * scale + shift
        if C == 4:
            metres = _metres(depth + nearest + _nearest(x, W), inside & (channel == 3))
            value = tl.where(colour, value, _inverse(metres, nearest_m, farthest_m))
        value = tl.where(inside, value, 0.0)
        tl.store(crop_BhwC + out_row * C + k, value.to(crop_BhwC.dtype.element_ty), mask=exists)

    k = first + tl.arange(0, BLOCK)
    x = left + ((origin + direction * k).to(tl.float64) + 0.5) * x_step
    inside = (k < w) & (x >= 0) & (x < inside_W)
    metres = tl.zeros([BLOCK], tl.float32)
    if depth is not None:
        metres = _metres(depth + nearest + _nearest(x, W), inside)
    tl.store(depth_Bhw + out_row + k, metres, mask=k < w)
    classes = tl.full([BLOCK], 255, tl.uint8)
    if label is not None:
        classes = tl.load(label + nearest + _nearest(x, W), mask=inside, other=255)
    tl.store(label_Bhw + out_row + k, classes, mask=k < w)


@triton.jit
def _first_tap(position, side):
    """The pixel whose centre lies before a position, kept in the frame; the next one's weight.

    Beyond the border the weight is 0 or 1 and the border repeats.
    """
    centred = tl.minimum(tl.maximum(position - 0.5, 0.0), (side - 1).to(tl.float64))
    tap = tl.maximum(tl.minimum(centred.to(tl.int64), side - 2), 0)
    return tap, (centred - tap.to(tl.float64)).to(tl.float32)


@triton.jit
def _nearest(position, side):
    """The pixel that a position lies in, kept in the frame; the cast truncates, as floor does."""
    kept = tl.minimum(tl.maximum(position, 0.0), (side - 1).to(tl.float64))
    return kept.to(tl.int64)


@triton.jit
def _lerp(image, line, x, W, channel, mask):
    """One channel along a line of a frame, between the pixels round x; 0 where masked."""
    column, weight = _first_tap(x, W)
    before = image + 3 * (line + column) + channel
    after = image + 3 * (line + tl.minimum(column + 1, W - 1)) + channel
    a = tl.load(before, mask=mask, other=0).to(tl.float32)
    b = tl.load(after, mask=mask, other=0).to(tl.float32)
    return a + weight * (b - a)


@triton.jit
def _metres(millimetres, mask):
    """Depth of pixels; divided with one rounding, as everywhere, so that all agree to the bit."""
    whole = tl.load(millimetres, mask=mask, other=0).to(tl.float32)
    return tl.div_rn(whole, tl.full(whole.shape, 1000.0, tl.float32))


@triton.jit
def _inverse(metres, nearest_m, farthest_m):
    """Inverse depth from 0 (far) to 1 (near); 0 where missing."""
    near, far = 1.0 / nearest_m, 1.0 / farthest_m
    inverse = 1.0 / tl.minimum(tl.maximum(metres, nearest_m), farthest_m)
    return tl.where(metres > 0, (inverse - far) / (near - far), 0.0)
