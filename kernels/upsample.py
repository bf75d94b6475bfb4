"""Bilinear upsampling whose gradient can be had as the same bytes every time.

PyTorch's backward pass on CUDA lets each pixel add to its four cells by atomic instructions, in no
fixed order, so two equal runs differ in the last bits. Here each cell gathers from its pixels.

Axes: B batch, C channel, H W pixels, h w cells.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def upsample(
    x_BChw: Tensor,
    size: tuple[int, int] | None = None,
    scale_factor: float | None = None,
    *,
    align_corners: bool,
) -> Tensor:
    """`F.interpolate(mode="bilinear")` to a `size` or by a factor: its bytes, dtypes and layout.

    Where PyTorch is told to use deterministic algorithms, the gradient of a CUDA tensor is that of
    `Gathered`; PyTorch itself would go over to a sum of sorted indices, many times slower.
    """
    if not (x_BChw.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.interpolate(
            x_BChw, size, scale_factor, mode="bilinear", align_corners=align_corners
        )
    factor = scale_factor or 1.0
    hw = size or tuple(int(side * factor) for side in x_BChw.shape[2:])
    out_BCHW: Tensor = Gathered.apply(x_BChw, hw, align_corners)
    return out_BCHW


class Upsample(nn.Module):
    """`upsample` by a factor, with aligned corners; no weights."""

    def __init__(self, scale_factor: float) -> None:
        super().__init__()
        self.scale_factor = scale_factor

    def forward(self, x_BChw: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, H, W)."""
        return upsample(x_BChw, scale_factor=self.scale_factor, align_corners=True)


class Gathered(torch.autograd.Function):
    """`upsample` to a size, differentiable once.

    Bilinear interpolation is one matrix along the height and one along the width. Its gradient is
    the product with the two transposed, which cuBLAS adds up in an order that only shapes decide.
    """

    @staticmethod
    def forward(ctx: Any, x_BChw: Tensor, hw: tuple[int, int], align_corners: bool) -> Tensor:
        """The bytes of `F.interpolate`, which is this operation where nothing is deterministic."""
        ctx.cells, ctx.align_corners = x_BChw.shape[2:], align_corners
        out_BCHW: Tensor = torch.ops.aten.upsample_bilinear2d(x_BChw, hw, align_corners)
        return out_BCHW

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor, None, None]:
        """The gradient: sums in at least float32, then in the dtype that it came in."""
        dtype = torch.promote_types(grad_BCHW.dtype, torch.float32)
        B, C, H, W = grad_BCHW.shape
        (h, w), device = ctx.cells, grad_BCHW.device
        rows_hH = _shares(h, H, ctx.align_corners, dtype, device)
        columns_wW = _shares(w, W, ctx.align_corners, dtype, device)
        # Compiled, a backward pass runs under the autocast of its forward pass.
        with torch.autocast(device.type, enabled=False):
            # Channels last, as the network's tensors lie: both products read them as they are.
            grad_BHWC = grad_BCHW.to(dtype).permute(0, 2, 3, 1)
            tall_BhWC = (rows_hH @ grad_BHWC.reshape(B, H, W * C)).reshape(B * h, W, C)
            out_BhwC = (columns_wW @ tall_BhWC).reshape(B, h, w, C)
        return out_BhwC.permute(0, 3, 1, 2).to(grad_BCHW.dtype), None, None


def _shares(
    cells: int, pixels: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(cells, pixels): the share of each cell in each pixel, which PyTorch itself tells."""
    one_1hh = torch.eye(cells, dtype=dtype, device=device)[None]
    return F.interpolate(one_1hh, pixels, mode="linear", align_corners=align_corners)[0]
