"""What `benchmarks.kernel_speed` times: each fused operation and what a user would reach for.

Axes: B batch, C class, H W pixels, h w stride-4 cells or pixels of a crop; N frames, T temperature.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

# On import it asks the package index for a newer release, and waits where there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import sklearn.metrics
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as tm
from numpy.typing import NDArray
from torch import Tensor

import kernels.boundary_ce.reference
import kernels.confusion.reference
import kernels.crop_resize.reference
import kernels.tta_accumulate.reference
from benchmarks.figures import Work
from benchmarks.plain import selection
from benchmarks.plain.loss import boundary_cross_entropy
from benchmarks.scene import IGNORE_INDEX, blocky_labels, smooth_probabilities
from benchmarks.timing import Case
from kernels.crop_resize import Crops, Encoding, Frames

_C = 13
"""Classes of NYU Depth v2."""
_HW = (480, 640)
"""Of a frame of NYU Depth v2."""
_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)
"""Those of the published experiments."""
_VIEW_HW = (576, 800)
"""A frame at scale 1.25, in whole 32s."""
_VIEW: dict[str, Any] = {"view_hw": _VIEW_HW, "flipped": True, "align_corners": True}

_BATCH = 4
"""Frames a call, as the published experiments train on."""
_INPUT_HW, _CROP_HW = (720, 960), (576, 768)
_SCALE, _TOP, _LEFT = 0.9, 30, 50
"""The frame becomes 648 x 864; the crop starts at this row and column of it, once mirrored."""
_CONTRAST, _BRIGHTNESS = 0.1, -0.05
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_Array = NDArray[Any]
_ENCODING = Encoding(_MEAN, _STD, depth_range_m=(0.71, 10.0), in_channels=3)


def boundary_ce(device: torch.device) -> Case:
    """Forward + backward, 13 x 144 x 192 -> 576 x 768, batch 4."""
    logits_BChw = _noise(4, 144, 192).to(device, memory_format=torch.channels_last).requires_grad_()
    label_BHW = blocky_labels((4, 576, 768), _C).to(device)
    weight_C = torch.ones(_C)
    weight_C[[1, 9, 10]] = 1.5
    weight_C = weight_C.to(device)

    def both(loss: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
        def call() -> tuple[Tensor, Tensor]:
            value = loss(logits_BChw, label_BHW, weight_C, 2.0)
            (gradient_BChw,) = torch.autograd.grad(value, logits_BChw)
            return value.detach(), gradient_BChw

        return call

    ours = partial(kernels.boundary_ce.boundary_ce, align_corners=True)
    reference = partial(kernels.boundary_ce.reference.boundary_ce, align_corners=True)
    compiled = torch.compile(reference, fullgraph=True)
    sides = {"ours": both(ours), "eager": both(_eager_loss), "torch.compile": both(compiled)}
    work = _boundary_work(logits_BChw.nbytes, label_BHW)
    return Case("boundary_ce", sides, work, _check_boundary, device)


def confusion(device: torch.device) -> Case:
    """Counting 24 million pixels; on a GPU without the libraries that have none."""
    label_BHW = blocky_labels((79, *_HW), _C)
    generator = torch.Generator().manual_seed(1)
    other_BHW = torch.randint(_C, label_BHW.shape, dtype=torch.uint8, generator=generator)
    wrong_BHW = torch.rand(label_BHW.shape, generator=generator) < 0.3
    prediction_BHW = torch.where(wrong_BHW | (label_BHW == IGNORE_INDEX), other_BHW, label_BHW)
    label_BHW, prediction_BHW = label_BHW.to(device), prediction_BHW.to(device)

    both = prediction_BHW, label_BHW
    counted = partial(tm.multiclass_confusion_matrix, num_classes=_C, ignore_index=IGNORE_INDEX)
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": partial(kernels.confusion.confusion, *both, _C),
        "eager": partial(kernels.confusion.reference.confusion, *both, _C),
        "torchmetrics": partial(counted, *both),
    }
    if device.type == "cpu":
        sides |= {"bincount": partial(_bincount, *both), "scikit-learn": partial(_sklearn, *both)}
    work = Work(prediction_BHW.nbytes + label_BHW.nbytes, 0)
    return Case("confusion", sides, work, _check_counts, device)


def tta_accumulate(device: torch.device) -> Case:
    """A mirrored view at scale 1.25, at four temperatures; each side adds into its own total."""
    logits_BChw = _noise(1, _VIEW_HW[0] // 4, _VIEW_HW[1] // 4)
    logits_BChw = logits_BChw.to(device, memory_format=torch.channels_last)

    def with_total(accumulate: Callable[..., None]) -> Callable[[], Tensor]:
        total_BTCHW = kernels.tta_accumulate.zero_total(1, len(_TEMPERATURES), _C, _HW, device)

        @torch.inference_mode()
        def call() -> Tensor:
            accumulate(total_BTCHW, logits_BChw, _TEMPERATURES, **_VIEW)
            return total_BTCHW

        return call

    total_THWC = np.zeros((len(_TEMPERATURES), *_HW, _C), np.float32)

    @torch.inference_mode()
    def opencv() -> Tensor:
        """Softmax by PyTorch and `cv2.resize`, for each temperature."""
        logits_BCHW = F.interpolate(logits_BChw, _VIEW_HW, mode="bilinear", align_corners=True)
        for t, temperature in enumerate(_TEMPERATURES):
            prob_BCHW = torch.softmax(logits_BCHW / temperature, dim=1).flip(-1)
            prob_HWC = prob_BCHW[0].permute(1, 2, 0).numpy()
            total_THWC[t] += cv2.resize(prob_HWC, _HW[::-1], interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(total_THWC).permute(0, 3, 1, 2)[None]

    reference = kernels.tta_accumulate.reference.tta_accumulate
    sides = {
        "ours": with_total(kernels.tta_accumulate.tta_accumulate),
        "eager": with_total(reference),
        "torch.compile": with_total(torch.compile(reference, fullgraph=True)),
    }
    if device.type == "cpu":
        sides["opencv"] = opencv
    return Case("tta_accumulate", sides, _view_work(logits_BChw.nbytes), _check_totals, device)


def crop_resize(device: torch.device) -> Case:
    """Crops 576 x 768 of RGB-D frames in memory as 720 x 960; each side on one thread."""
    image_NHW3, depth_NHW, label_NHW = arrays_N = _frames()
    frames = Frames(
        torch.from_numpy(image_NHW3).reshape(-1, 3).to(device),
        torch.from_numpy(depth_NHW).reshape(-1).to(device),
        torch.from_numpy(label_NHW).reshape(-1).to(device),
        (torch.arange(_BATCH) * (_HW[0] * _HW[1])).to(device),
        torch.tensor([_HW] * _BATCH).to(device),
    )
    draw_B8 = torch.tensor([[sample, *_draw()] for sample in range(_BATCH)], dtype=torch.float64)
    asked = frames, draw_B8.to(device), _CROP_HW, _ENCODING
    compose = _albumentations()

    def albumentations(image_HW3: _Array, depth_HW: _Array, label_HW: _Array) -> Crops:
        out = compose(image=image_HW3, masks=[depth_HW, label_HW])
        return _crops(out["image"], *out["masks"])

    def each(chain: Callable[..., Crops]) -> Callable[[], list[Crops]]:
        return lambda: [chain(*frame) for frame in zip(*arrays_N, strict=True)]

    sides: dict[str, Callable[[], Any]] = {
        "ours": partial(kernels.crop_resize.crop_resize, *asked),
        "eager": partial(kernels.crop_resize.reference.crop_resize, *asked),
    }
    if device.type == "cpu":
        sides |= {"opencv": each(_opencv), "albumentations": each(albumentations)}
    return Case("crop_resize", sides, _crop_work(), _check_crops, device, threads=1)


CASES: dict[str, Callable[[torch.device], Case]] = {
    made.__name__: made for made in (boundary_ce, tta_accumulate, confusion, crop_resize)
}
"""By name of the operation."""


def _noise(frames: int, height: int, width: int) -> Tensor:
    """(B, C, h, w) logits."""
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(frames, _C, height, width, generator=generator)


def _boundary_work(logits_bytes: int, label_BHW: Tensor) -> Work:
    """Forward reads logits and labels and writes the gradient; backward scales that.

    A class of a pixel: 20 operations for the exponential, and 20 to interpolate, to find maximum,
    sum and slope, and to spread the slope over the cells.
    """
    return Work(4 * logits_bytes + label_BHW.nbytes, label_BHW.numel() * _C * 40)


def _eager_loss(logits_BChw: Tensor, label_BHW: Tensor, weight_C: Tensor, edge: float) -> Tensor:
    """The chain that a training script has: every step stores a full-resolution tensor."""
    logits_BCHW = F.interpolate(logits_BChw, scale_factor=4, mode="bilinear", align_corners=True)
    return boundary_cross_entropy(logits_BCHW, label_BHW.long(), weight_C, edge)


def _check_boundary(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-9)


def _bincount(prediction_BHW: Tensor, label_BHW: Tensor) -> Tensor:
    label_N, prediction_N = label_BHW.numpy().ravel(), prediction_BHW.numpy().ravel()
    return torch.from_numpy(selection.confusion(prediction_N, label_N, _C))


def _sklearn(prediction_BHW: Tensor, label_BHW: Tensor) -> Tensor:
    label_N, prediction_N = label_BHW.numpy().ravel(), prediction_BHW.numpy().ravel()
    valid_N = label_N != IGNORE_INDEX
    pairs = label_N[valid_N], prediction_N[valid_N]
    matrix = sklearn.metrics.confusion_matrix(*pairs, labels=np.arange(_C))
    return torch.from_numpy(matrix)


def _check_counts(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours, theirs), f"it counts otherwise: {theirs}, we {ours}"


def _view_work(logits_bytes: int) -> Work:
    """The total is read and written, the logits are read.

    A class of a view's pixel: 5 operations to interpolate and find the maximum, then 23 for each
    temperature, 20 of them the exponential. A class of a base pixel and temperature: 7 to
    interpolate twice and add.
    """
    pixels, view_pixels = (hw[0] * hw[1] for hw in (_HW, _VIEW_HW))
    temperatures = len(_TEMPERATURES)
    flops = _C * (view_pixels * (5 + 23 * temperatures) + pixels * 7 * temperatures)
    total_bytes = 4 * temperatures * _C * pixels
    return Work(2 * total_bytes + logits_bytes, flops)


def _check_totals(ours: Tensor, theirs: Tensor) -> None:
    # PyTorch finds its taps in float32: at column 800 their weights are off by 1e-5, times logits
    # of noise that differ by ten from cell to cell.
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=2e-4)


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


def _albumentations() -> A.Compose:
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
    return A.Compose(steps)


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
        torch.testing.assert_close(ours.image_BChw, whole.image_BChw, rtol=0.0, atol=1e-5)
        return
    # The chains resample twice and round to bytes between: the same picture, not the same bits.
    image_gap = (ours.image_BChw - whole.image_BChw).abs() * torch.tensor(_STD)[:, None, None]
    assert float(image_gap.mean()) < 2.0, f"images differ by {image_gap.mean()} of 255"
    other = float((ours.label_Bhw != whole.label_Bhw).double().mean())
    assert other < 0.05, f"{other:.1%} of the labels differ"
