"""Batch normalisation with its activation on the CPU: Numba, channels-last.

PyTorch reads and writes a layer's cells five times forward and seven backward: sums, squares,
product, activation; mask, sums, gradient. Here the activation and its mask are part of the
neighbouring pass, so that it is four and five, and what backward keeps is the input alone. Every
sum has the order and every product the rounding of PyTorch's own loops (batch_norm_kernel.cpp: a
run of rows for each thread, its sums in float32, the threads' in float64), so the bytes are those
of `reference` where PyTorch was built to fuse products into sums, as its x86 wheels are.

Axes: N values of a channel, C channels, T threads.
"""

from typing import NamedTuple

import numba
import numpy as np
import torch
from numba import float32, float64, types
from torch import Tensor

from kernels.batch_norm.cpu_vector import (
    normalise_rows,
    sum_rows,
    sum_slopes,
    sum_squares,
    write_slopes,
)
from kernels.batch_norm.reference import BatchNorm
from kernels.columns import cells_of
from kernels.cpu import Array, compiled, parallel, typed
from kernels.threads import cpu_threads
from kernels.vectors import address

_ROWS = 16
"""That a task walks down at a time, in the first-level cache."""

_OPEN = (np.float32(-np.inf), np.float32(np.inf))
"""No bounds."""

_Float = np.float32


class Moments(NamedTuple):
    """Of a batch, float32.

    Attributes:
        mean_C: of each channel.
        inverse_C: 1 / deviation.
    """

    mean_C: Tensor
    inverse_C: Tensor


class Affine(NamedTuple):
    """What normalises a value and cuts it off: min(max(scale x + shift, low), high)."""

    scale_C: Array
    shift_C: Array
    low: np.float32
    high: np.float32


@cpu_threads()
def forward(x_BChw: Tensor, norm: BatchNorm, low: float, high: float) -> tuple[Tensor, Moments]:
    """The result, channels-last, and the batch's moments; updates the running statistics."""
    x_NC = cells_of(x_BChw)
    moment_2C = np.empty((2, x_NC.shape[1]), np.float32)
    new, old = _Float(norm.momentum), _Float(1 - norm.momentum)
    variance_C, running_C = norm.variance_C.numpy(), norm.mean_C.numpy()
    _measure(x_NC, _sums(x_NC), moment_2C, variance_C, (new, old), norm.eps)
    # Two roundings, where the variance's has one: so PyTorch's two loops were compiled.
    running_C[:] = new * moment_2C[0] + old * running_C
    moments = Moments(*torch.from_numpy(moment_2C))
    return normalised(x_BChw, affine(norm.weight_C, norm.bias_C, moments, low, high)), moments


@cpu_threads()
def measured(x_BChw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (over the count) of each channel; of two values or more."""
    x_NC = cells_of(x_BChw)
    N, moment_2C = len(x_NC), np.empty((2, x_NC.shape[1]), np.float32)
    sample_C = np.zeros(x_NC.shape[1], np.float32)
    _measure(x_NC, _sums(x_NC), moment_2C, sample_C, (_Float(1), _Float(0)), 1.0)
    return torch.from_numpy(moment_2C[0]), torch.from_numpy(sample_C * _Float((N - 1) / N))


@cpu_threads()
def uncut(x_BChw: Tensor, cut: Affine) -> Tensor:
    """What a forward pass cuts off, channels-last."""
    return normalised(x_BChw, cut._replace(low=_OPEN[0], high=_OPEN[1]))


@cpu_threads()
def normalised(x_BChw: Tensor, cut: Affine) -> Tensor:
    """The values, multiplied, moved and cut off, channels-last."""
    y_BChw = torch.empty_like(x_BChw, memory_format=torch.channels_last)
    _normalise(cells_of(x_BChw), cut, cells_of(y_BChw))
    return y_BChw


@cpu_threads()
def backward(
    grad_BChw: Tensor, x_BChw: Tensor, weight_C: Tensor, moments: Moments, cut: Affine
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the input, channels-last, of the weights and of the biases."""
    sum_C, dot_C = summed_slopes(grad_BChw, x_BChw, moments, cut).numpy()
    inverse_C, N = moments.inverse_C.numpy(), _Float(x_BChw.numel() // x_BChw.shape[1])
    pulls = sum_C / N, dot_C * inverse_C * inverse_C / N
    out_BChw = _slopes(grad_BChw, x_BChw, weight_C, moments, cut, pulls)
    return out_BChw, torch.from_numpy(dot_C * inverse_C), torch.from_numpy(sum_C)


@cpu_threads()
def summed_slopes(grad_BChw: Tensor, x_BChw: Tensor, moments: Moments, cut: Affine) -> Tensor:
    """(2, C): the gradient's sums, where nothing is cut off, and those times x - mean."""
    x_NC, mean_C = cells_of(x_BChw), moments.mean_C.numpy()
    total_2C = np.empty((2, len(mean_C)), np.float32)
    _sum_slopes(x_NC, cells_of(grad_BChw), cut, mean_C, _sums(x_NC), total_2C)
    return torch.from_numpy(total_2C)


@cpu_threads()
def slopes(
    grad_BChw: Tensor,
    x_BChw: Tensor,
    weight_C: Tensor,
    moments: Moments,
    cut: Affine,
    means_2C: Tensor,
) -> Tensor:
    """The gradient of the input, channels-last; `means_2C` are `summed_slopes` a value."""
    grad_mean_C, dot_mean_C = means_2C.numpy()
    inverse_C = moments.inverse_C.numpy()
    pulls = grad_mean_C, dot_mean_C * inverse_C * inverse_C
    return _slopes(grad_BChw, x_BChw, weight_C, moments, cut, pulls)


def _slopes(
    grad_BChw: Tensor,
    x_BChw: Tensor,
    weight_C: Tensor,
    moments: Moments,
    cut: Affine,
    pulls: tuple[Array, Array],
) -> Tensor:
    out_BChw = torch.empty_like(x_BChw, memory_format=torch.channels_last)
    mean_C, inverse_C = (each.numpy() for each in moments)
    terms = mean_C, *pulls, inverse_C, weight_C.numpy()
    _write_slopes(cells_of(x_BChw), cells_of(grad_BChw), cut, terms, cells_of(out_BChw))
    return out_BChw


def affine(weight_C: Tensor, bias_C: Tensor, moments: Moments, low: float, high: float) -> Affine:
    """What a batch's values are multiplied by, moved by and cut off at."""
    weight, bias, (mean, inverse) = weight_C.numpy(), bias_C.numpy(), moments
    scale_C, shift_C = np.empty_like(weight), np.empty_like(weight)
    _write_affine(weight, bias, mean.numpy(), inverse.numpy(), scale_C, shift_C)
    return Affine(scale_C, shift_C, _Float(low), _Float(high))


def _sums(x_NC: Array) -> Array:
    """Zeros for two sums of each thread; those of T threads take ceil(N / T) rows each."""
    return np.zeros((2, torch.get_num_threads(), x_NC.shape[1]), np.float32)


@parallel
def _measure(
    x_NC: Array,
    sums_2TC: Array,
    moment_2C: Array,
    variance_C: Array,
    share: tuple[np.float32, np.float32],
    eps: float,
) -> None:
    (N, C), T = x_NC.shape, sums_2TC.shape[1]
    sum_TC, square_TC, mean_C, inverse_C = sums_2TC[0], sums_2TC[1], moment_2C[0], moment_2C[1]
    run = (N + T - 1) // T
    for t in numba.prange(T):
        for start in range(t * run, min((t + 1) * run, N), _ROWS):
            rows = min(start + _ROWS, (t + 1) * run, N) - start
            sum_rows(x_NC, rows, _OPEN, (address(x_NC[start:]), address(sum_TC[t:])))
    for c in range(C):
        total = 0.0
        for t in range(T):
            total += np.float64(sum_TC[t, c])
        mean_C[c] = np.float32(total / N)
    for t in numba.prange(T):
        for start in range(t * run, min((t + 1) * run, N), _ROWS):
            rows = min(start + _ROWS, (t + 1) * run, N) - start
            at = address(x_NC[start:]), address(mean_C), address(square_TC[t:])
            sum_squares(x_NC, rows, _OPEN, at)
    for c in range(C):
        total = 0.0
        for t in range(T):
            total += np.float64(square_TC[t, c])
        squares = np.float32(total)
        inverse_C[c] = np.float32(1 / np.sqrt(np.float64(squares / np.float32(N)) + eps))
        sample = squares / np.float32(N - 1)
        variance_C[c] = share[0] * sample + share[1] * variance_C[c]


@compiled
def _write_affine(
    weight_C: Array, bias_C: Array, mean_C: Array, inverse_C: Array, scale_C: Array, shift_C: Array
) -> None:
    for c in range(len(weight_C)):
        scale_C[c] = inverse_C[c] * weight_C[c]
        shift_C[c] = bias_C[c] - mean_C[c] * scale_C[c]


@parallel
def _normalise(x_NC: Array, cut: Affine, out_NC: Array) -> None:
    N, (scale_C, shift_C, low, high) = len(x_NC), cut
    for task in numba.prange((N + _ROWS - 1) // _ROWS):
        start = task * _ROWS
        at = address(x_NC[start:]), address(scale_C), address(shift_C), address(out_NC[start:])
        normalise_rows(x_NC, min(_ROWS, N - start), (low, high), at)


@parallel
def _sum_slopes(
    x_NC: Array,
    grad_NC: Array,
    cut: Affine,
    mean_C: Array,
    sums_2TC: Array,
    total_2C: Array,
) -> None:
    (N, C), (scale_C, shift_C, low, high) = x_NC.shape, cut
    sum_TC, dot_TC, T = sums_2TC[0], sums_2TC[1], sums_2TC.shape[1]
    run = (N + T - 1) // T
    for t in numba.prange(T):
        for start in range(t * run, min((t + 1) * run, N), _ROWS):
            rows = min(start + _ROWS, (t + 1) * run, N) - start
            cells = address(x_NC[start:]), address(grad_NC[start:])
            numbers = address(scale_C), address(shift_C), address(mean_C)
            sums = address(sum_TC[t:]), address(dot_TC[t:])
            sum_slopes(x_NC, rows, (low, high), (*cells, *numbers, *sums))
    for c in range(C):
        total, dot = 0.0, 0.0
        for t in range(T):
            total += np.float64(sum_TC[t, c])
            dot += np.float64(dot_TC[t, c])
        total_2C[0, c], total_2C[1, c] = np.float32(total), np.float32(dot)


@parallel
def _write_slopes(
    x_NC: Array, grad_NC: Array, cut: Affine, terms: tuple[Array, ...], out_NC: Array
) -> None:
    N, (scale_C, shift_C, low, high) = len(x_NC), cut
    mean_C, grad_mean_C, pull_C, inverse_C, weight_C = terms
    for task in numba.prange((N + _ROWS - 1) // _ROWS):
        start = task * _ROWS
        cells = address(x_NC[start:]), address(grad_NC[start:])
        numbers = address(scale_C), address(shift_C), address(mean_C)
        more = address(grad_mean_C), address(pull_C), address(inverse_C), address(weight_C)
        at = (*cells, *numbers, *more, address(out_NC[start:]))
        write_slopes(x_NC, min(_ROWS, N - start), (low, high), at)


_TABLE, _TWO, _NUMBERS = float32[:, ::1], float32[:, ::1], float32[::1]
_SUMS = float32[:, :, ::1]
_CUT = typed(Affine, _NUMBERS, _NUMBERS, float32, float32)
_SHARE = types.UniTuple(float32, 2)  # type: ignore[no-untyped-call]
_TERMS = types.UniTuple(_NUMBERS, 5)  # type: ignore[no-untyped-call]

SPECIALISATIONS = (
    (_measure, (_TABLE, _SUMS, _TWO, _NUMBERS, _SHARE, float64)),
    (_normalise, (_TABLE, _CUT, _TABLE)),
    (_sum_slopes, (_TABLE, _TABLE, _CUT, _NUMBERS, _SUMS, _TWO)),
    (_write_slopes, (_TABLE, _TABLE, _CUT, _TERMS, _TABLE)),
)
"""What training calls, see `kernels.ahead`."""
