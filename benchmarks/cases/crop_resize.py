"""One 480x640 RGB-D frame to a 576x768 crop of 720x960, on one core.

Axes: N frames, P pixels of all of them, B rows, C channels, H W pixels of a frame, h w of a crop.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

# On import it asks the package index for a newer release, and waits where there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.scene import IGNORE_INDEX, blocky_labels, smooth_probabilities
from benchmarks.timing import Case, assert_close
from kernels.crop_resize import Crops, Frames, crop_resize, reference

_HW, _INPUT_HW, _CROP_HW = (480, 640), (720, 960), (576, 768)
_SCALE, _TOP, _LEFT = 0.9, 30, 50
"""The frame becomes 648 x 864; the crop starts at this row and column of it, once mirrored."""
_CONTRAST, _BRIGHTNESS = 0.1, -0.05
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_OPTIONS: dict[str, Any] = {
    "mean": _MEAN,
    "std": _STD,
    "depth_range_m": (0.71, 10.0),
    "in_channels": 3,
}


def cases() -> Iterator[Case]:
    """RGB, depth and label of one decoded frame in memory, each side on one thread."""
    image_HW3, depth_HW, label_HW = _frame()
    frames = Frames(
        torch.from_numpy(image_HW3).reshape(-1, 3),
        torch.from_numpy(depth_HW).reshape(-1),
        torch.from_numpy(label_HW).reshape(-1),
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([_HW]),
    )
    draw_B8 = torch.tensor([_draw()], dtype=torch.float64)
    chain = _albumentations()

    def albumentations() -> Crops:
        out = chain(image=image_HW3, masks=[depth_HW, label_HW])
        return _crops(out["image"], *out["masks"])

    yield Case(
        "crop_resize",
        _on_one_core(lambda: crop_resize(frames, draw_B8, _CROP_HW, **_OPTIONS)),
        {
            "eager": _on_one_core(
                lambda: reference.crop_resize(frames, draw_B8, _CROP_HW, **_OPTIONS)
            ),
            "opencv": _on_one_core(lambda: _opencv(image_HW3, depth_HW, label_HW)),
            "albumentations": _on_one_core(albumentations),
        },
        _check,
    )


def _frame() -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint8]]:
    """Smooth, as a room is: resampling twice then differs little from resampling once."""
    shades = smooth_probabilities((1, 4, *_HW), seed=3)[0].numpy()
    image_HW3 = np.ascontiguousarray((255 * shades[:3]).transpose(1, 2, 0).astype(np.uint8))
    depth_HW = (1000 + 8000 * shades[3]).astype(np.uint16)
    return image_HW3, depth_HW, blocky_labels((1, *_HW), 13)[0].numpy()


def _draw() -> list[float]:
    """The row of draws that gives the crop of the chains below."""
    height, width = (round(side * _SCALE) for side in _INPUT_HW)
    per_row, per_column = _HW[0] / height, _HW[1] / width
    # The chains mirror first and crop then: from the right edge.
    left = width - _LEFT - _CROP_HW[1]
    box = (_TOP * per_row, left * per_column, _CROP_HW[0] * per_row, _CROP_HW[1] * per_column)
    return [0.0, *box, 1.0, 1.0 + _CONTRAST, _BRIGHTNESS]


def _albumentations() -> A.Compose:
    contrast, brightness = (_CONTRAST, _CONTRAST), (_BRIGHTNESS, _BRIGHTNESS)
    top, left = _TOP, _LEFT
    return A.Compose(
        [
            A.Resize(*_INPUT_HW),
            A.HorizontalFlip(p=1.0),
            A.RandomScale((_SCALE - 1, _SCALE - 1), p=1.0),
            A.RandomBrightnessContrast(brightness, contrast, ensure_safe_range=False, p=1.0),
            A.PadIfNeeded(*_CROP_HW, fill=0, fill_mask=IGNORE_INDEX),
            A.Crop(left, top, left + _CROP_HW[1], top + _CROP_HW[0]),
            A.Normalize(mean=[m / 255 for m in _MEAN], std=[s / 255 for s in _STD]),
        ]
    )


def _opencv(
    image_HW3: NDArray[np.uint8], depth_HW: NDArray[np.uint16], label_HW: NDArray[np.uint8]
) -> Crops:
    """The same chain by hand, without what this frame does not need (it is padded nowhere)."""
    size = _INPUT_HW[::-1]
    scaled = tuple(round(side * _SCALE) for side in size)
    rows, columns = slice(_TOP, _TOP + _CROP_HW[0]), slice(_LEFT, _LEFT + _CROP_HW[1])
    image = cv2.resize(image_HW3, size, interpolation=cv2.INTER_LINEAR)
    image = cv2.resize(cv2.flip(image, 1), scaled, interpolation=cv2.INTER_LINEAR)[rows, columns]
    lit = np.clip(image.astype(np.float32) * (1 + _CONTRAST) + 255 * _BRIGHTNESS, 0, 255)
    normal = (lit - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    maps = []
    for pixels in (depth_HW, label_HW):
        large = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)
        mirrored = cv2.flip(large, 1)
        maps.append(cv2.resize(mirrored, scaled, interpolation=cv2.INTER_NEAREST)[rows, columns])
    return _crops(normal, *maps)


def _crops(image_hw3: NDArray[Any], depth_hw: NDArray[Any], label_hw: NDArray[Any]) -> Crops:
    image_B3hw = torch.from_numpy(np.ascontiguousarray(image_hw3)).permute(2, 0, 1)[None]
    depth_Bhw = torch.from_numpy(depth_hw.astype(np.float32) / 1000)[None]
    return Crops(image_B3hw, depth_Bhw, torch.from_numpy(label_hw.astype(np.uint8))[None])


def _on_one_core(call: Callable[[], Crops]) -> Callable[[], Crops]:
    def limited() -> Crops:
        before, before_cv = torch.get_num_threads(), cv2.getNumThreads()
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        try:
            return call()
        finally:
            torch.set_num_threads(before)
            cv2.setNumThreads(before_cv)

    return limited


def _check(rival: str, ours: Crops, theirs: Crops) -> None:
    assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in theirs], rival
    if rival == "eager":
        assert torch.equal(ours.depth_Bhw, theirs.depth_Bhw), rival
        assert torch.equal(ours.label_Bhw, theirs.label_Bhw), rival
        assert_close(rival, ours.image_BChw, theirs.image_BChw, rtol=0.0, atol=1e-5)
        return
    # The chains resample twice and round to bytes between: the same picture, not the same bits.
    image_gap = (ours.image_BChw - theirs.image_BChw).abs() * torch.tensor(_STD)[:, None, None]
    assert float(image_gap.mean()) < 2.0, f"{rival}: images differ by {image_gap.mean()} of 255"
    other = _share(ours.label_Bhw, theirs.label_Bhw)
    assert other < 0.05, f"{rival}: {other:.1%} of the labels differ"


def _share(ours: Tensor, theirs: Tensor) -> float:
    return float((ours != theirs).double().mean())
