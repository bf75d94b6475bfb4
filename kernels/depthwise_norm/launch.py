"""How the Triton kernels of this folder are launched: tiles, grids and constants.

Axes: as in triton.py.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.gpu import power_of_two

THREAD_CHANNELS = 4
"""Of a convolution's thread: 16 columns of them are 64 sums, and 128 registers hold everything."""
WARP_CHANNELS = 32 * THREAD_CHANNELS
LINES = 4
"""Rows of a program, whose halo the L1 cache shares."""
BACK_BLOCK = 64
"""Channels of a program of the convolution's backward pass: two a thread, so 100 sums."""
BACK_LAUNCH = {"num_warps": 4}
BACK_PROGRAMS = 396
"""Three blocks on each of an H100's 132 multiprocessors; more would only leave more to add up."""
NORM_PART = 256
"""Channels that a warp reads at once in the norm's backward pass: 16 bytes a thread."""
NORM_PARTS = 2
"""Of a thread, each 8 channels of six numbers; with more channels a pixel is several warps'."""
NORM_WARPS = 4
NORM_PROGRAMS = 528


def forward(
    x_BCHW: Tensor,
    taps_TC: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor],
    eps: float,
    outputs: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write y and, unless `normal` is empty, what the backward pass needs; see op.py."""
    from kernels.depthwise_norm.triton import convolve_and_normalise

    B, C, H, W = x_BCHW.shape
    tile, options = forward_tile(C, W, x_BCHW.itemsize)
    constants = {"EPS": eps, "C": C, "GRADIENT": outputs[1].numel() > 0, **tile}
    if x_BCHW.numel():
        grid = (-(-W // tile["COLUMNS"]), -(-H // tile["LINES"]), B)
        arrays = (x_BCHW, taps_TC, *parameters, *outputs)
        convolve_and_normalise[grid](*arrays, H, W, **constants, **options)


def norm_backward(
    grad_y_BCHW: Tensor, normal_BCHW: Tensor, rstd_N: Tensor, gamma_C: Tensor, slope_BCHW: Tensor
) -> Tensor:
    """Write the gradient of u; return those of gamma and beta, (2, C) of rstd's dtype."""
    from kernels.depthwise_norm.triton_backward import normalise_backward

    C, N = grad_y_BCHW.shape[1], len(rstd_N)
    tile, options = norm_tile(C)
    programs = min(-(-N // tile["PIXELS"]), NORM_PROGRAMS)
    sums_P2C = rstd_N.new_empty((programs, 2, C))
    if sums_P2C.numel():
        arrays = (grad_y_BCHW, normal_BCHW, rstd_N, gamma_C, slope_BCHW, sums_P2C)
        normalise_backward[programs,](*arrays, N, C=C, **tile, **options)
    return sums_P2C.sum(0)


def convolution_backward(
    slope_BCHW: Tensor,
    x_BCHW: Tensor,
    taps_TC: Tensor,
    residual_BCHW: Tensor | None,
    grad_x_BCHW: Tensor,
) -> Tensor:
    """Write the gradient of x from that of u, and add the residual's, if there is one.

    Returns the gradients of taps and, in the last row, of the bias: (50, C), at least float32.
    """
    from kernels.depthwise_norm.triton_backward import convolve_backward

    B, C, H, W = x_BCHW.shape
    tile = back_tile(W, x_BCHW.itemsize)
    blocks, tiles, steps = back_grid((B, C, H, W), tile["COLUMNS"])
    real = torch.promote_types(x_BCHW.dtype, torch.float32)
    sums_PTC = x_BCHW.new_empty((B * tiles, len(taps_TC) + 1, C), dtype=real)
    if sums_PTC.numel():
        arrays = (slope_BCHW, x_BCHW, taps_TC, residual_BCHW, grad_x_BCHW, sums_PTC)
        grid = (blocks, tiles, B)
        convolve_backward[grid](*arrays, H, W, steps, C=C, **tile, **BACK_LAUNCH)
    return sums_PTC.sum(0)


def forward_tile(channels: int, width: int, itemsize: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Constants and options of `convolve_and_normalise`: all channels in one program."""
    block = power_of_two(channels)
    # Up to 8 warps two programs fit a multiprocessor; 16 for the sake of a second row.
    lines = LINES if block <= 256 else 2 if block <= 1024 else 1
    # The wider tile loads less for an output, but must not reach beyond the image, and what is
    # loaded ahead has to fit the registers.
    columns = 8 if width % 16 or itemsize > 2 else 16
    warps = max(block * lines // WARP_CHANNELS, 1)
    tile = {"BLOCK": block, "LINES": lines, "COLUMNS": columns, "WHOLE": width % columns == 0}
    return tile, {"num_warps": warps}


def norm_tile(channels: int) -> tuple[dict[str, int], dict[str, int]]:
    """Constants and options of `normalise_backward`."""
    block = power_of_two(channels)
    part = min(block, max(NORM_PART, block // NORM_PARTS))
    warps = NORM_WARPS * max(part // NORM_PART, 1)
    tile = {"PARTS": block // part, "PIXELS": warps * NORM_PART // part, "PART": part}
    return tile, {"num_warps": warps}


def back_tile(width: int, itemsize: int) -> dict[str, Any]:
    """Constants of `convolve_backward`."""
    columns = 4 if itemsize > 2 else 8  # what is loaded ahead takes as many registers
    whole = width % columns == 0
    return {"BLOCK": BACK_BLOCK, "LINES": LINES, "COLUMNS": columns, "WHOLE": whole}


def back_grid(shape: tuple[int, int, int, int], columns: int) -> tuple[int, int, int]:
    """Of `convolve_backward`: blocks of channels, tiles of an image, and a tile's LINES rows."""
    B, C, H, W = shape
    blocks, across, down = -(-C // BACK_BLOCK), -(-W // columns), -(-H // LINES)
    strips = min(max(BACK_PROGRAMS // max(blocks * across * B, 1), 1), down)
    steps = -(-down // strips)
    return blocks, across * -(-down // steps), steps
