"""Boundary-weighted cross-entropy, forward and backward, at the reports' size.

Axes: B batch, C class, H W pixels, h w stride-4 cells.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.figures import Work
from benchmarks.plain.loss import boundary_cross_entropy
from benchmarks.scene import blocky_labels
from benchmarks.timing import Case
from kernels.boundary_ce import boundary_ce, reference

_B, _C, _h, _w, _STRIDE = 4, 13, 144, 192, 4
_BOUNDARY_WEIGHT = 2.0


def case(device: torch.device) -> Case:
    """Forward + backward, 13 x 144 x 192 -> 576 x 768, batch 4."""
    generator = torch.Generator().manual_seed(0)
    logits_BChw = 2 * torch.randn(_B, _C, _h, _w, generator=generator)
    logits_BChw = logits_BChw.to(device, memory_format=torch.channels_last).requires_grad_()
    label_BHW = blocky_labels((_B, _h * _STRIDE, _w * _STRIDE), _C).to(device)
    weight_C = torch.ones(_C)
    weight_C[[1, 9, 10]] = 1.5
    weight_C = weight_C.to(device)

    def both(loss: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
        def call() -> tuple[Tensor, Tensor]:
            value = loss(logits_BChw, label_BHW, weight_C, _BOUNDARY_WEIGHT)
            (gradient_BChw,) = torch.autograd.grad(value, logits_BChw)
            return value.detach(), gradient_BChw

        return call

    ours = partial(boundary_ce, align_corners=True)
    compiled = torch.compile(partial(reference.boundary_ce, align_corners=True), fullgraph=True)
    sides = {"ours": both(ours), "eager": both(_eager), "torch.compile": both(compiled)}
    work = _work(logits_BChw.nbytes, label_BHW)
    return Case("boundary_ce", sides, work, _check, device)


def _work(logits_bytes: int, label_BHW: Tensor) -> Work:
    """Forward reads logits and labels and writes the gradient; backward scales that.

    A class of a pixel: 20 operations for the exponential, and 20 to interpolate, to find maximum,
    sum and slope, and to spread the slope over the cells.
    """
    return Work(4 * logits_bytes + label_BHW.nbytes, label_BHW.numel() * _C * 40)


def _eager(
    logits_BChw: Tensor, label_BHW: Tensor, weight_C: Tensor, boundary_weight: float
) -> Tensor:
    """The chain that a training script has: every step stores a full-resolution tensor."""
    logits_BCHW = F.interpolate(
        logits_BChw, scale_factor=_STRIDE, mode="bilinear", align_corners=True
    )
    return boundary_cross_entropy(logits_BCHW, label_BHW.long(), weight_C, boundary_weight)


def _check(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-9)
