"""One mirrored view at scale 1.25 of a 480x640 frame, added at four temperatures.

Axes: B batch, T temperature, C class, H W base pixels, h w stride-4 cells.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.figures import Work
from benchmarks.timing import Case
from kernels.tta_accumulate import reference, tta_accumulate, zero_total

_BASE_HW, _VIEW_HW, _C = (480, 640), (576, 800), 13
_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)
_VIEW: dict[str, Any] = {"view_hw": _VIEW_HW, "flipped": True, "align_corners": True}


def case(device: torch.device) -> Case:
    """The view of the reports' runs, flipped; each side adds into a total of its own."""
    generator = torch.Generator().manual_seed(0)
    logits_BChw = 2 * torch.randn(1, _C, _VIEW_HW[0] // 4, _VIEW_HW[1] // 4, generator=generator)
    logits_BChw = logits_BChw.to(device, memory_format=torch.channels_last)

    def with_total(accumulate: Callable[..., None]) -> Callable[[], Tensor]:
        total_BTCHW = zero_total(1, len(_TEMPERATURES), _C, _BASE_HW, logits_BChw.device)

        @torch.inference_mode()
        def call() -> Tensor:
            accumulate(total_BTCHW, logits_BChw, _TEMPERATURES, **_VIEW)
            return total_BTCHW

        return call

    total_THWC = np.zeros((len(_TEMPERATURES), *_BASE_HW, _C), np.float32)

    @torch.inference_mode()
    def opencv() -> Tensor:
        """Softmax by PyTorch and `cv2.resize`, for each temperature."""
        logits_BCHW = F.interpolate(logits_BChw, _VIEW_HW, mode="bilinear", align_corners=True)
        for t, temperature in enumerate(_TEMPERATURES):
            prob_BCHW = torch.softmax(logits_BCHW / temperature, dim=1).flip(-1)
            prob_HWC = prob_BCHW[0].permute(1, 2, 0).numpy()
            total_THWC[t] += cv2.resize(prob_HWC, _BASE_HW[::-1], interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(total_THWC).permute(0, 3, 1, 2)[None]

    sides = {
        "ours": with_total(tta_accumulate),
        "eager": with_total(reference.tta_accumulate),
        "torch.compile": with_total(torch.compile(reference.tta_accumulate, fullgraph=True)),
    }
    if device.type == "cpu":
        sides["opencv"] = opencv
    return Case("tta_accumulate", sides, _work(logits_BChw.nbytes), _check, device)


def _work(logits_bytes: int) -> Work:
    """The total is read and written, the logits are read.

    A class of a view's pixel: 5 operations to interpolate and find the maximum, then 23 for each
    temperature, 20 of them the exponential. A class of a base pixel and temperature: 7 to
    interpolate twice and add.
    """
    pixels, view_pixels = (hw[0] * hw[1] for hw in (_BASE_HW, _VIEW_HW))
    temperatures = len(_TEMPERATURES)
    flops = _C * (view_pixels * (5 + 23 * temperatures) + pixels * 7 * temperatures)
    total_bytes = 4 * temperatures * _C * pixels
    return Work(2 * total_bytes + logits_bytes, flops)


def _check(ours: Tensor, theirs: Tensor) -> None:
    # PyTorch finds its taps in float32: at column 800 their weights are off by 1e-5, times logits
    # of noise that differ by ten from cell to cell.
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=2e-4)
