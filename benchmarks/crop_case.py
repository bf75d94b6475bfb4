"""The case `crop_resize` of `benchmarks.kernel_speed`: frames in memory to augmented crops.

Axes: B rows, N frames, P pixels of all of them, H W pixels of a frame, h w pixels of a crop.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import kernels.crop_resize.reference
from benchmarks.command import has
from benchmarks.figures import Work
from benchmarks.scene import IGNORE_INDEX, blocky_labels, smooth_probabilities
from benchmarks.timing import BF16_STEP, Case
from kernels.crop_resize import Crops, Encoding, Frames

_Array = NDArray[Any]
_Chain = Callable[[_Array, _Array, _Array], Crops]
"""From image, depth and label of a frame to its crop."""

_HW = (480, 640)
"""Of a frame of NYU Depth v2."""
_BATCH = 4
"""Frames a call, as the published experiments train on."""
_INPUT_HW, _CROP_HW = (720, 960), (576, 768)
_SCALE, _TOP, _LEFT = 0.9, 30, 50
"""The frame becomes 648 x 864; the crop starts at this row and column of it, once mirrored."""
_CONTRAST, _BRIGHTNESS = 0.1, -0.05
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_ENCODING = Encoding(_MEAN, _STD, depth_range_m=(0.71, 10.0), in_channels=3)


def crop_resize(device: torch.device, dtype: torch.dtype = torch.float32) -> Case:
    """Crops 576 x 768 of RGB-D frames in memory as 720 x 960; each side on one thread."""
    image_NHW3, depth_NHW, label_NHW = arrays_N = _frames()
    frames = Frames(
        torch.from_numpy(image_NHW3).reshape(-1, 3).to(device),
        torch.from_numpy(depth_NHW).reshape(-1).to(device),
        torch.from_numpy(label_NHW).reshape(-1).to(device),
        torch.arange(_BATCH) * (_HW[0] * _HW[1]),
        torch.tensor([_HW] * _BATCH),
    )
    draw_B8 = torch.tensor([[sample, *_draw()] for sample in range(_BATCH)], dtype=torch.float64)
    asked = frames, draw_B8, _CROP_HW, _ENCODING, dtype

    def each(chain: _Chain) -> Callable[[], list[Crops]]:
        return lambda: [chain(*frame) for frame in zip(*arrays_N, strict=True)]

    sides: dict[str, Callable[[], Any]] = {
        "ours": partial(kernels.crop_resize.crop_resize, *asked),
        "eager": partial(kernels.crop_resize.reference.crop_resize, *asked),
    }
    if device.type == "cpu":
        sides["opencv"] = each(_opencv)
        if has("albumentations"):
            sides["albumentations"] = each(_albumentations())
        if has("kornia"):
            sides["kornia"] = partial(_kornia(), *arrays_N)
    return Case("crop_resize", sides, _crop_work(), _check_crops, device, threads=1)


def _crop_work() -> Work:
    """The part of the frame under the crop is read: colours, depth, label; the crop is written.

    A colour of an output pixel: 3 operations to interpolate along the column, 2 to clip; of a
    pixel of a resized line: 3 along the row, 2 for light and normalisation.
    """
    _, _, height, width, *_ = _draw()
    pixels, lines = _CROP_HW[0] * _CROP_HW[1], round(height)
    read, written = round(height * width) * (3 + 2 + 1), pixels * (3 * 4 + 4 + 1)
    flops = 3 * 5 * (pixels + lines * _CROP_HW[1])
    return Work(_BATCH * (read + written), _BATCH * flops)


def _frames() -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint8]]:
    """Smooth, as a room is: resampling twice then differs little from resampling once."""
    shades = smooth_probabilities((_BATCH, 4, *_HW), seed=3).numpy()
    image_NHW3 = np.ascontiguousarray((255 * shades[:, :3]).transpose(0, 2, 3, 1).astype(np.uint8))
    depth_NHW = (1000 + 8000 * shades[:, 3]).astype(np.uint16)
    return image_NHW3, depth_NHW, blocky_labels((_BATCH, *_HW), 13).numpy()


def _draw() -> list[float]:
    """The row of draws, but for the frame, that gives the crop of the chains below."""
    height, width = (round(side * _SCALE) for side in _INPUT_HW)
    per_row, per_column = _HW[0] / height, _HW[1] / width
    # The chains mirror first and crop then: from the right edge.
    left = width - _LEFT - _CROP_HW[1]
    box = (_TOP * per_row, left * per_column, _CROP_HW[0] * per_row, _CROP_HW[1] * per_column)
    return [*box, 1.0, 1.0 + _CONTRAST, _BRIGHTNESS]


def _albumentations() -> _Chain:
    # On import it asks the package index for a newer release, and waits where there is no network.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A

    contrast, brightness = (_CONTRAST, _CONTRAST), (_BRIGHTNESS, _BRIGHTNESS)
    steps = [
        A.Resize(*_INPUT_HW),
        A.HorizontalFlip(p=1.0),
        A.RandomScale((_SCALE - 1, _SCALE - 1), p=1.0),
        A.RandomBrightnessContrast(brightness, contrast, ensure_safe_range=False, p=1.0),
        A.PadIfNeeded(*_CROP_HW, fill=0, fill_mask=IGNORE_INDEX),
        A.Crop(_LEFT, _TOP, _LEFT + _CROP_HW[1], _TOP + _CROP_HW[0]),
        A.Normalize(mean=[m / 255 for m in _MEAN], std=[s / 255 for s in _STD]),
    ]
    compose = A.Compose(steps)

    def crop(image_HW3: _Array, depth_HW: _Array, label_HW: _Array) -> Crops:
        out = compose(image=image_HW3, masks=[depth_HW, label_HW])
        return _crops(out["image"], *out["masks"])

    return crop


def _kornia() -> Callable[[_Array, _Array, _Array], list[Crops]]:
    """All frames at once, by the one warp that enlarges, mirrors and crops."""
    import kornia.enhance as ke
    from kornia.geometry.transform import warp_affine

    top, left, height, width, *_ = _draw()
    per_row, per_column = _CROP_HW[0] / height, _CROP_HW[1] / width
    # From a pixel's centre in the frame to its centre in the crop, where columns run backwards.
    first_row, first_column = ((0.5 - a) * b - 0.5 for a, b in ((top, per_row), (left, per_column)))
    affine_23 = [
        [-per_column, 0.0, _CROP_HW[1] - 1 - first_column],
        [0.0, per_row, first_row],
    ]
    affine_B23 = torch.tensor([affine_23] * _BATCH)
    mean, std = (torch.tensor(each) / 255 for each in (_MEAN, _STD))

    def crop(image_NHW3: _Array, depth_NHW: _Array, label_NHW: _Array) -> list[Crops]:
        image_B3HW = torch.from_numpy(image_NHW3).permute(0, 3, 1, 2) / 255
        image_B3hw = warp_affine(image_B3HW, affine_B23, _CROP_HW, "bilinear", align_corners=True)
        lit_B3hw = ke.adjust_contrast(image_B3hw, 1 + _CONTRAST, clip_output=False)
        lit_B3hw = ke.adjust_brightness(lit_B3hw, _BRIGHTNESS)
        maps_B2HW = torch.from_numpy(np.stack([depth_NHW, label_NHW], 1).astype(np.float32))
        maps_B2hw = warp_affine(maps_B2HW, affine_B23, _CROP_HW, "nearest", align_corners=True)
        depth_Bhw, label_Bhw = maps_B2hw.unbind(1)
        normal_B3hw = ke.normalize(lit_B3hw, mean, std)
        return [Crops(normal_B3hw, depth_Bhw / 1000, label_Bhw.to(torch.uint8))]

    return crop


def _opencv(image_HW3: _Array, depth_HW: _Array, label_HW: _Array) -> Crops:
    """The same chain by hand, without what this frame does not need (it is padded nowhere)."""
    scaled = tuple(round(side * _SCALE) for side in _INPUT_HW[::-1])

    def crop(pixels: _Array, interpolation: int) -> Any:
        large = cv2.resize(pixels, _INPUT_HW[::-1], interpolation=interpolation)
        small = cv2.resize(cv2.flip(large, 1), scaled, interpolation=interpolation)
        return small[_TOP : _TOP + _CROP_HW[0], _LEFT : _LEFT + _CROP_HW[1]]

    image = crop(image_HW3, cv2.INTER_LINEAR).astype(np.float32)
    lit = np.clip(image * (1 + _CONTRAST) + 255 * _BRIGHTNESS, 0, 255)
    normal = (lit - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    maps = (crop(pixels, cv2.INTER_NEAREST) for pixels in (depth_HW, label_HW))
    return _crops(normal, *maps)


def _crops(image_hw3: _Array, depth_hw: _Array, label_hw: _Array) -> Crops:
    image_B3hw = torch.from_numpy(np.ascontiguousarray(image_hw3)).permute(2, 0, 1)[None]
    depth_Bhw = torch.from_numpy(depth_hw.astype(np.float32) / 1000)[None]
    return Crops(image_B3hw, depth_Bhw, torch.from_numpy(label_hw.astype(np.uint8))[None])


def _check_crops(ours: Crops, theirs: Crops | list[Crops]) -> None:
    each = [theirs] if isinstance(theirs, Crops) else theirs
    whole = Crops(*(torch.cat(parts) for parts in zip(*each, strict=True)))
    assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in whole]
    if isinstance(theirs, Crops):
        # PyTorch multiplies by the reciprocal where it divides by a number on a GPU.
        torch.testing.assert_close(ours.depth_Bhw, whole.depth_Bhw, rtol=2e-7, atol=0.0)
        torch.testing.assert_close(ours.label_Bhw, whole.label_Bhw, rtol=0, atol=0)
        rtol = 0.0 if ours.image_BChw.dtype == torch.float32 else BF16_STEP
        torch.testing.assert_close(ours.image_BChw, whole.image_BChw, rtol=rtol, atol=1e-5)
        return
    # The chains resample twice and round to bytes between: the same picture, not the same bits.
    image_gap = (ours.image_BChw - whole.image_BChw).abs() * torch.tensor(_STD)[:, None, None]
    assert float(image_gap.mean()) < 2.0, f"images differ by {image_gap.mean()} of 255"
    other = float((ours.label_Bhw != whole.label_Bhw).double().mean())
    assert other < 0.05, f"{other:.1%} of the labels differ"
