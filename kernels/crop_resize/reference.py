"""Crops of decoded frames as a network takes them, written as the mathematics reads.

Axes: N frames of a set, P pixels of all of them, B rows of a batch, C input channels, H W pixels of
one frame, h w pixels of a crop.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE_INDEX = 255
"""Label of a pixel without a class, and of all that lies outside a frame."""

MILLIMETRES_PER_METRE = 1000.0

DRAW_COLUMNS = ("sample", "top", "left", "height", "width", "mirrored", "gain", "shift")
"""What the columns of `draw_B8` hold."""


class Frames(NamedTuple):
    """Decoded frames of any sizes, one behind another in flat buffers on one device.

    Where they lie is kept on the CPU: what a crop reads is worked out there.
    """

    image_P3: Tensor
    """(P, 3) uint8 RGB, rows of a frame in order, contiguous."""
    depth_P: Tensor | None
    """(P,) uint16 millimetres, 0 = missing; None without depth."""
    label_P: Tensor | None
    """(P,) uint8 class, 255 = ignore; None without labels."""
    offset_N: Tensor
    """(N,) int64 on the CPU, where each frame starts, in pixels."""
    hw_N2: Tensor
    """(N, 2) int64 on the CPU, height and width of each, at least 1; offset + H W <= P."""


class Encoding(NamedTuple):
    """How pixels become the network's input."""

    mean: Sequence[float]
    """3 numbers in 0..255."""
    std: Sequence[float]
    """3 positive numbers in 0..255."""
    depth_range_m: tuple[float, float]
    """Nearest and farthest depth, metres, 0 < near < far."""
    in_channels: int
    """3, or 4 with inverse depth."""


class Crops(NamedTuple):
    """What a network takes and what it is held to."""

    image_BChw: Tensor
    """(B, 3 or 4, h, w) of the dtype asked for, channels-last in memory: a view of contiguous
    (B, h, w, C), which is what `cpu` and `launch` are given to write. Normalised RGB (and inverse
    depth); 0 outside."""
    depth_Bhw: Tensor
    """(B, h, w) float32 metres, contiguous; 0 = missing, outside, or frames without depth."""
    label_Bhw: Tensor
    """(B, h, w) uint8, contiguous; 255 = ignored, outside, or frames without labels."""


def crop_resize(
    frames: Frames,
    draw_B8: Tensor,
    crop_hw: tuple[int, int],
    encoding: Encoding,
    dtype: torch.dtype = torch.float32,
) -> Crops:
    """Cut a box out of each row's frame, resize it to `crop_hw`, mirror, light and normalise it.

    Output pixel i of a side of n samples the frame at x = start + (i + 1/2) length / n, where pixel
    k of the frame covers [k, k + 1); a mirrored row is reversed afterwards. Depth and label take
    the pixel floor(x). The image is interpolated bilinearly between the centres around x, taps
    beyond the border repeat it, and becomes (clip(gain v + 255 shift, 0, 255) - mean) / std. With d
    the depth clipped to `depth_range_m`, the fourth channel is (1/d - 1/far) / (1/near - 1/far),
    and 0 where the depth is missing. A pixel is outside if x is outside [0, H) or [0, W).

    Args:
        frames: where the pixels are.
        draw_B8: (B, 8) float64 on the CPU, `DRAW_COLUMNS` by row: the frame's position in [0, N),
            its box in pixels of the frame (any, also beyond it), 0 or 1, contrast, brightness as a
            share of full scale.
        crop_hw: size of the crops.
        encoding: how pixels become the network's input.
        dtype: of the image: float32, bfloat16 (rounded from float32), or, in this reference only,
            float64: a truth to measure the others by.

    Returns:
        New tensors on the pixels' device.

    Raises:
        ValueError: shapes, types or values do not fit together.
    """
    check_arguments(frames, draw_B8, crop_hw, encoding)
    mean, std, depth_range_m, in_channels = encoding
    check_samples(draw_B8, len(frames.hw_N2))
    work = torch.promote_types(dtype, torch.float32)
    device = frames.image_P3.device
    rows = len(draw_B8)
    image_BhwC = torch.zeros(rows, *crop_hw, in_channels, dtype=work, device=device)
    depth_Bhw = torch.zeros(rows, *crop_hw, device=device)
    label_Bhw = torch.full((rows, *crop_hw), IGNORE_INDEX, dtype=torch.uint8, device=device)
    mean_3, std_3 = (torch.tensor(each, dtype=work, device=device) for each in (mean, std))
    for row, draw in enumerate(draw_B8.tolist()):
        sample, top, left, height, width, mirrored, gain, shift = draw
        first, (H, W) = int(frames.offset_N[int(sample)]), frames.hw_N2[int(sample)].tolist()
        y_h = _positions(top, height, crop_hw[0], device)
        x_w = _positions(left, width, crop_hw[1], device)
        if mirrored:
            x_w = x_w.flip(0)
        inside_hw = _inside(y_h, H)[:, None] & _inside(x_w, W)
        image_HW3 = frames.image_P3[first : first + H * W].reshape(H, W, 3).to(work)
        lit_hw3 = (_bilinear(image_HW3, y_h, x_w) * gain + 255 * shift).clamp(0, 255)
        image_BhwC[row, ..., :3] = ((lit_hw3 - mean_3) / std_3) * inside_hw[..., None]
        nearest_hw = first + W * _nearest(y_h, H)[:, None] + _nearest(x_w, W)
        if frames.depth_P is not None:
            # Viewed as signed: PyTorch gathers no uint16 on a GPU.
            depth_hw = frames.depth_P.view(torch.int16)[nearest_hw].to(torch.int32) & 0xFFFF
            depth_Bhw[row] = depth_hw.to(torch.float32) / MILLIMETRES_PER_METRE * inside_hw
        if frames.label_P is not None:
            label_Bhw[row] = torch.where(inside_hw, frames.label_P[nearest_hw], IGNORE_INDEX)
    if in_channels == 4:
        image_BhwC[..., 3] = _inverse_depth(depth_Bhw.to(work), depth_range_m)
    return Crops(image_BhwC.to(dtype).permute(0, 3, 1, 2), depth_Bhw, label_Bhw)


def check_arguments(
    frames: Frames, draw_B8: Tensor, crop_hw: tuple[int, int], encoding: Encoding
) -> None:
    """Refuse shapes, types and settings that `crop_resize` cannot work on; reads no values.

    Raises:
        ValueError: naming what came and what is needed.
    """
    _check_frames(frames)
    mean, std, depth_range_m, in_channels = encoding
    if draw_B8.ndim != 2 or draw_B8.shape[1] != len(DRAW_COLUMNS) or draw_B8.dtype != torch.float64:
        raise ValueError(
            f"draws must be (B, {len(DRAW_COLUMNS)}) float64 with {', '.join(DRAW_COLUMNS)}, got "
            f"{tuple(draw_B8.shape)} {draw_B8.dtype}"
        )
    if draw_B8.device.type != "cpu":
        raise ValueError(f"draws must be on the CPU, got {draw_B8.device}")
    if min(crop_hw) < 1:
        raise ValueError(f"a crop has at least one pixel a side, got {crop_hw}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"need 3 means and 3 positive deviations, got {mean} and {std}")
    if not 0 < depth_range_m[0] < depth_range_m[1]:
        raise ValueError(f"a depth range is 0 < nearest < farthest, got {depth_range_m}")
    if in_channels not in (3, 4):
        raise ValueError(f"a network takes 3 (RGB) or 4 (RGB-D) channels, got {in_channels}")
    if in_channels == 4 and frames.depth_P is None:
        raise ValueError("4 input channels need depth, got none; give depth maps or use 3")


def check_samples(draw_B8: Tensor, frames: int) -> None:
    """Refuse draws of frames that are not there.

    Raises:
        ValueError: naming what came and what is needed.
    """
    if not len(draw_B8):
        return
    low, high = (float(end) for end in draw_B8[:, 0].aminmax())
    if not (low >= 0 and high < frames):
        raise ValueError(f"samples must be in [0, {frames}), got {low:g} to {high:g}")


def _check_frames(frames: Frames) -> None:
    pixels, device = len(frames.image_P3), frames.image_P3.device
    cpu = torch.device("cpu")
    buffers = (
        ("image", frames.image_P3, (pixels, 3), torch.uint8, device),
        ("depth", frames.depth_P, (pixels,), torch.uint16, device),
        ("label", frames.label_P, (pixels,), torch.uint8, device),
        ("offset", frames.offset_N, (len(frames.hw_N2),), torch.int64, cpu),
        ("hw", frames.hw_N2, (len(frames.hw_N2), 2), torch.int64, cpu),
    )
    for name, buffer, shape, dtype, where in buffers:
        if buffer is None:
            continue
        if buffer.shape != shape or buffer.dtype != dtype or not buffer.is_contiguous():
            raise ValueError(
                f"the frames' {name} must be {shape} {dtype}, contiguous, got "
                f"{tuple(buffer.shape)} {buffer.dtype}"
            )
        if buffer.device != where:
            raise ValueError(f"the frames' {name} must be on {where}, got {buffer.device}")


def _positions(start: float, length: float, count: int, device: torch.device) -> Tensor:
    centre_n = torch.arange(count, dtype=torch.float64, device=device) + 0.5
    return start + centre_n * (length / count)


def _inside(position_n: Tensor, side: int) -> Tensor:
    return (position_n >= 0) & (position_n < side)


def _nearest(position_n: Tensor, side: int) -> Tensor:
    return position_n.floor().clamp(0, side - 1).long()


def _bilinear(image_HW3: Tensor, y_h: Tensor, x_w: Tensor) -> Tensor:
    """(h, w, 3) of the image's dtype; taps beyond the border repeat it."""
    for axis, position_n in ((0, y_h), (1, x_w)):
        side = image_HW3.shape[axis]
        before_n = (position_n - 0.5).floor()
        weight_n = (position_n - 0.5 - before_n).to(image_HW3.dtype)
        weight_n = weight_n.reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        first, second = (
            image_HW3.index_select(axis, (before_n + tap).clamp(0, side - 1).long())
            for tap in (0, 1)
        )
        image_HW3 = first + weight_n * (second - first)
    return image_HW3


def _inverse_depth(depth_Bhw: Tensor, depth_range_m: tuple[float, float]) -> Tensor:
    near, far = 1 / depth_range_m[0], 1 / depth_range_m[1]
    inverse_Bhw = 1 / depth_Bhw.clamp(*depth_range_m)
    return torch.where(depth_Bhw > 0, (inverse_Bhw - far) / (near - far), 0.0)
