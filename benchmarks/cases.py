"""What `benchmarks.kernel_speed` times: each fused operation and what a user would reach for.

A library of one operation only is imported by its case; one that is not installed is left out.

Axes: B batch, C class, H W pixels, h w stride-4 cells, N pixels of all frames, T temperature.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import kernels.boundary_ce.reference
import kernels.confusion.reference
import kernels.tta_accumulate.reference
from benchmarks.command import has
from benchmarks.crop_case import crop_resize
from benchmarks.figures import Work
from benchmarks.plain import selection
from benchmarks.plain.loss import boundary_cross_entropy
from benchmarks.scene import IGNORE_INDEX, blocky_labels
from benchmarks.timing import BF16_STEP, Case
from kernels.tta_accumulate import View

_C = 13
"""Classes of NYU Depth v2."""
_HW = (480, 640)
"""Of a frame of NYU Depth v2."""
_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)
"""Those of the published experiments."""
_VIEW_HWS = ((224, 320), (352, 480), (480, 640), (576, 800), (704, 960))
"""A frame at scales 0.5 to 1.5, in whole 32s."""
_VIEWS = [View(hw, flipped, True) for hw in _VIEW_HWS for flipped in (False, True)]


def boundary_ce(device: torch.device, dtype: torch.dtype = torch.float32) -> Case:
    """Forward + backward of logits in a precision, 13 x 144 x 192 -> 576 x 768, batch 4."""
    logits_BChw = _noise(4, 144, 192).to(device, dtype, memory_format=torch.channels_last)
    logits_BChw.requires_grad_()
    label_BHW = blocky_labels((4, 576, 768), _C).to(device)
    weight_C = torch.tensor([1.5 if c in (1, 9, 10) else 1.0 for c in range(_C)], device=device)

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
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": partial(kernels.confusion.confusion, *both, _C),
        "eager": partial(kernels.confusion.reference.confusion, *both, _C),
    }
    if has("torchmetrics"):
        sides["torchmetrics"] = partial(_torchmetrics(), *both)
    if device.type == "cpu":
        flat = label_BHW.numpy().ravel(), prediction_BHW.numpy().ravel()
        sides["bincount"] = partial(_bincount, *flat)
        if has("scikit-learn"):
            sides["scikit-learn"] = partial(_sklearn, *flat)
    work = Work(prediction_BHW.nbytes + label_BHW.nbytes, 0)
    return Case("confusion", sides, work, _check_counts, device)


def tta_accumulate(device: torch.device, dtype: torch.dtype = torch.float32) -> Case:
    """Ten views of a frame at four temperatures; each side adds into its own total."""
    noise = (_noise(1, view.hw[0] // 4, view.hw[1] // 4) for view in _VIEWS)
    logits = [one.to(device, dtype, memory_format=torch.channels_last) for one in noise]

    def with_total(accumulate: Callable[..., None]) -> Callable[[], Tensor]:
        total_BTCHW = kernels.tta_accumulate.zero_total(1, len(_TEMPERATURES), _C, _HW, device)

        @torch.inference_mode()
        def call() -> Tensor:
            accumulate(total_BTCHW, logits, _TEMPERATURES, _VIEWS)
            return total_BTCHW

        return call

    total_THWC = np.zeros((len(_TEMPERATURES), *_HW, _C), np.float32)

    @torch.inference_mode()
    def opencv() -> Tensor:
        """Softmax by PyTorch and `cv2.resize`, for each temperature."""
        for logits_BChw, view in zip(logits, _VIEWS, strict=True):
            logits_BCHW = F.interpolate(logits_BChw, view.hw, mode="bilinear", align_corners=True)
            for t, temperature in enumerate(_TEMPERATURES):
                prob_BCHW = torch.softmax(logits_BCHW / temperature, dim=1)
                prob_BCHW = prob_BCHW.flip(-1) if view.flipped else prob_BCHW
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
    check = partial(_check_totals, views=len(_VIEWS))
    return Case("tta_accumulate", sides, _view_work(logits), check, device)


CASES: dict[str, Callable[..., Case]] = {
    made.__name__: made for made in (boundary_ce, tta_accumulate, confusion, crop_resize)
}
"""By name of the operation; each takes the device, all but `confusion` a precision too."""


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
    logits_BChw = logits_BChw.float()
    logits_BCHW = F.interpolate(logits_BChw, scale_factor=4, mode="bilinear", align_corners=True)
    return boundary_cross_entropy(logits_BCHW, label_BHW.long(), weight_C, edge)


def _check_boundary(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    rtol = 1e-3 if ours[1].dtype == torch.float32 else BF16_STEP
    torch.testing.assert_close(ours[1], theirs[1], rtol=rtol, atol=1e-9)


def _torchmetrics() -> Callable[[Tensor, Tensor], Tensor]:
    import torchmetrics.functional.classification as tm

    return partial(tm.multiclass_confusion_matrix, num_classes=_C, ignore_index=IGNORE_INDEX)


def _bincount(label_N: selection.Mask, prediction_N: selection.Mask) -> Tensor:
    return torch.from_numpy(selection.confusion(prediction_N, label_N, _C))


def _sklearn(label_N: selection.Mask, prediction_N: selection.Mask) -> Tensor:
    import sklearn.metrics

    valid_N = label_N != IGNORE_INDEX
    pairs = label_N[valid_N], prediction_N[valid_N]
    matrix = sklearn.metrics.confusion_matrix(*pairs, labels=np.arange(_C))
    return torch.from_numpy(matrix)


def _check_counts(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours, theirs), f"it counts otherwise: {theirs}, we {ours}"


def _view_work(logits: list[Tensor]) -> Work:
    """The total is read and written, the logits are read.

    A class of a view's pixel: 5 operations to interpolate and find the maximum, then 23 for each
    temperature, 20 of them the exponential. A class of a base pixel and temperature: 7 to
    interpolate twice and add, for each view.
    """
    pixels, view_pixels = _HW[0] * _HW[1], sum(view.hw[0] * view.hw[1] for view in _VIEWS)
    temperatures = len(_TEMPERATURES)
    flops = view_pixels * (5 + 23 * temperatures) + len(_VIEWS) * pixels * 7 * temperatures
    total_bytes = 4 * temperatures * _C * pixels
    return Work(2 * total_bytes + sum(one.nbytes for one in logits), _C * flops)


def _check_totals(ours: Tensor, theirs: Tensor, views: int) -> None:
    # PyTorch finds its taps in float32: at column 800 their weights are off by 1e-5, times logits
    # of noise that differ by ten from cell to cell.
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=2e-4 * views)
