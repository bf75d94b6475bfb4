"""Gradients of a group norm on the CPU: Numba, channels-last.

PyTorch goes down one group at a time with vectors of its channels, of which an FPN's norms have two
or four: the rest of each vector is idle, and each is loaded by a copy of as many bytes. Here a row
of cells is read as it lies, 16 channels at a time. Every sum has the order and every product the
rounding of PyTorch's own loops (group_norm_kernel.cpp), so the bytes are those of `reference` where
PyTorch was built to fuse products into sums, as its x86 wheels are with AVX. Its loops are two:
below 2,048 cells an image's channels are summed from its first cell to its last, from there on each
thread sums a run of the batch's cells; which of their products are fused was found by trying.

Axes: B batch, C channels, G groups, N cells of all images, R runs of cells.
"""

import numba
import numpy as np
import torch
from numba import float32, int64
from torch import Tensor

from kernels.columns import cells_of
from kernels.cpu import Array, exact, exact_parallel, parallel
from kernels.group_norm.cpu_vector import sum_fused, sum_rounded, write_gradient
from kernels.threads import cpu_threads
from kernels.vectors import address, fma

_ROWS = 16
"""That a task walks down at a time, in the first-level cache."""
_SHARED = 2048
"""Cells of an image from which on PyTorch shares out cells and not groups."""
_ROUNDED, _FUSED, _LANES = range(3)
"""How the channels of a group are added up: one after the other, each product rounded or fused into
the sum, or as lanes of a vector.
"""
_OPEN = (np.float32(-np.inf), np.float32(np.inf))
"""No bounds."""


@cpu_threads()
def backward(
    grad_BChw: Tensor, x_BChw: Tensor, weight_C: Tensor, mean_BG: Tensor, inverse_BG: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the input, channels-last, of the weights and of the biases.

    Groups have one, two or four channels, the channels are a multiple of 8, `inverse_BG` is 1 /
    deviation; what is not an image's cells is float32.
    """
    (B, C), x_NC, grad_NC = x_BChw.shape[:2], cells_of(x_BChw), cells_of(grad_BChw)
    cells = len(x_NC) // B
    shared = cells >= _SHARED
    run = -(-len(x_NC) // torch.get_num_threads()) if shared else cells
    sum_2RBC = np.zeros((2, -(-len(x_NC) // run), B, C), np.float32)
    factor_3BC, of_weight_C, of_bias_C = np.empty((3, B, C), np.float32), *np.zeros((2, C), "f4")
    narrow = _LANES if x_BChw.dtype == torch.float32 else _FUSED
    order = _ROUNDED if shared else narrow
    norm = weight_C.numpy(), mean_BG.numpy(), inverse_BG.numpy()
    given = x_NC, grad_NC, cells, run, order, *norm
    _measure(*given, sum_2RBC, factor_3BC, of_weight_C, of_bias_C)
    out_BChw = torch.empty_like(x_BChw, memory_format=torch.channels_last)
    _write(x_NC, grad_NC, cells, factor_3BC, cells_of(out_BChw))
    return out_BChw, torch.from_numpy(of_weight_C), torch.from_numpy(of_bias_C)


@exact
def _finish(  # noqa: PLR0913 - compiled
    sum_2RBC: Array,
    cells: int,
    order: int,
    weight_C: Array,
    mean_BG: Array,
    inverse_BG: Array,
    factor_3BC: Array,
    of_weight_C: Array,
    of_bias_C: Array,
) -> None:
    """What an input's gradient is made of, and those of weights and biases."""
    (R, B, C), G = sum_2RBC.shape[1:], mean_BG.shape[1]
    D = C // G
    a_value = np.float32(1) / np.float32(D * cells)
    total_2D = np.empty((2, D), np.float32)
    for b in range(B):
        for g in range(G):
            mean, inverse = mean_BG[b, g], inverse_BG[b, g]
            dot_of_group = sum_of_group = np.float32(0)
            for d in range(D):
                c = g * D + d
                weight = weight_C[c]
                dot = total = np.float32(0)
                for r in range(R):
                    dot_of_run, sum_of_run = sum_2RBC[0, r, b, c], sum_2RBC[1, r, b, c]
                    dot, total = dot + dot_of_run, total + sum_of_run
                    if order == _FUSED:
                        dot_of_group = fma(dot_of_run, weight, dot_of_group)
                        sum_of_group = fma(sum_of_run, weight, sum_of_group)
                    else:
                        dot_of_group += dot_of_run * weight
                        sum_of_group += sum_of_run * weight
                total_2D[0, d], total_2D[1, d] = dot * weight, total * weight
                of_weight_C[c] = fma(fma(-total, mean, dot), inverse, of_weight_C[c])
                of_bias_C[c] += total
                factor_3BC[0, b, c] = inverse * weight
            if order == _LANES:
                # Those half a vector apart are added, again and again.
                width = D // 2
                while width:
                    for d in range(width):
                        total_2D[0, d] += total_2D[0, d + width]
                        total_2D[1, d] += total_2D[1, d + width]
                    width //= 2
                dot_of_group, sum_of_group = total_2D[0, 0], total_2D[1, 0]
            pull = fma(sum_of_group, mean, -dot_of_group) * inverse * inverse * inverse * a_value
            rest = fma(-pull, mean, -(sum_of_group * inverse * a_value))
            for c in range(g * D, (g + 1) * D):
                factor_3BC[1, b, c], factor_3BC[2, b, c] = pull, rest


@exact_parallel
def _measure(  # noqa: PLR0913 - compiled
    x_NC: Array,
    grad_NC: Array,
    cells: int,
    run: int,
    order: int,
    weight_C: Array,
    mean_BG: Array,
    inverse_BG: Array,
    sum_2RBC: Array,
    factor_3BC: Array,
    of_weight_C: Array,
    of_bias_C: Array,
) -> None:
    """Of each run, for each image, input times gradient and the gradient; and what follows."""
    N, (dot_RBC, sum_RBC) = len(x_NC), (sum_2RBC[0], sum_2RBC[1])
    for r in numba.prange(len(dot_RBC)):
        start, end = r * run, min((r + 1) * run, N)
        while start < end:
            b = start // cells
            rows = min(_ROWS, end - start, (b + 1) * cells - start)
            table = address(x_NC[start:]), address(grad_NC[start:])
            sums = address(dot_RBC[r, b]), address(sum_RBC[r, b])
            if order == _ROUNDED:
                sum_fused(x_NC, rows, _OPEN, (*table, *sums))
            else:
                sum_rounded(x_NC, rows, _OPEN, (*table, *sums))
            start += rows
    _finish(
        *(sum_2RBC, cells, order, weight_C, mean_BG, inverse_BG),
        *(factor_3BC, of_weight_C, of_bias_C),
    )


@parallel
def _write(x_NC: Array, grad_NC: Array, cells: int, factor_3BC: Array, out_NC: Array) -> None:
    tasks = (cells + _ROWS - 1) // _ROWS
    for task in numba.prange(factor_3BC.shape[1] * tasks):
        b, first = task // tasks, task % tasks * _ROWS
        start = b * cells + first
        table = address(x_NC[start:]), address(grad_NC[start:])
        of_grad, of_x, rest = factor_3BC[0, b], factor_3BC[1, b], factor_3BC[2, b]
        at = (*table, address(of_grad), address(of_x), address(rest), address(out_NC[start:]))
        write_gradient(x_NC, min(_ROWS, cells - first), _OPEN, at)


_TABLE, _NUMBERS = float32[:, ::1], float32[::1]
_FACTORS, _SUMS = float32[:, :, ::1], float32[:, :, :, ::1]

SPECIALISATIONS = (
    (
        _measure,
        (
            *(_TABLE, _TABLE, int64, int64, int64, _NUMBERS, _TABLE, _TABLE),
            *(_SUMS, _FACTORS, _NUMBERS, _NUMBERS),
        ),
    ),
    (_write, (_TABLE, _TABLE, int64, _FACTORS, _TABLE)),
)
"""What training calls, see `kernels.ahead`."""
