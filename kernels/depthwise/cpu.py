"""Gradients of a depthwise convolution on the CPU: Numba, channels-last.

Weights: oneDNN has a kernel for it that takes 3 x 3 taps; for 5 x 5 and more it goes over to its
general one, which makes blocks of 16 by 16 channels of which only the diagonal is asked for. Here a
task takes 16 channels of an image into scratch, edges padded with zeros, and walks along its rows
with a row of taps in registers. The order of the sums is oneDNN's: over images, rows and columns,
and with padding blocks of a row are summed by themselves (jit_avx512_common_conv_kernel.cpp). Of
3 x 3 taps it is that of its depthwise kernel (jit_uni_dw_conv_kernel_f32.cpp): one block of columns
after the other, each over all rows.

Input, of strides in bfloat16, for which oneDNN has no kernel: each cell's few products are added up
in float32, in the order of the taps, as its kernel for float32 does, and rounded once.

Axes: B batch, H W cells of the input, Y X of the output, C channels, K taps of a side, L lanes.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import float32, int64
from numba.core import cgutils, types
from torch import Tensor

from kernels.cpu import Array, Integers, compiled, exact, exact_parallel, parallel
from kernels.threads import cpu_threads
from kernels.vectors import (
    FLOAT,
    LANES,
    VECTOR,
    Codegen,
    address,
    call,
    fma,
    intrinsic,
    load,
    load_low,
    store,
    variable,
)

_WIDEST = 28
"""Columns of the output that oneDNN sums at once."""
_UNCUT, _CUT = 30, 15
"""Of 3 x 3 taps: in so many columns it makes no blocks, of more it makes blocks of so many."""


@cpu_threads()
def weight_gradient(x_BCHW: Tensor, grad_BCYX: Tensor, side: int, stride: int, pad: int) -> Tensor:
    """(C, 1, K, K), of at least 16 channels; both tensors are channels-last and float32."""
    x, grad = map(_cells, (x_BCHW, grad_BCYX))
    out_KKC = np.empty((side, side, x.shape[3]), np.float32)
    width = grad.shape[2]
    blocks = _blocks(width, pad) if side > 3 else _blocks_of_3(width)
    _weight_gradient(x, grad, stride, pad, blocks, out_KKC)
    return torch.from_numpy(out_KKC).permute(2, 0, 1)[:, None].contiguous()


@cpu_threads()
def input_gradient(
    grad_BCYX: Tensor, weight_C1KK: Tensor, hw: tuple[int, int], stride: int, pad: int
) -> Tensor:
    """(B, C, H, W) bfloat16, channels-last; so is the slope, and the weights are of its dtype."""
    B, C = grad_BCYX.shape[:2]
    shape, last = (B, C, *hw), torch.channels_last
    out_BCHW = torch.empty(shape, dtype=torch.bfloat16, memory_format=last)
    weight_KKC = weight_C1KK.detach()[:, 0].permute(1, 2, 0).float().contiguous().numpy()
    _input_gradient(_cells(grad_BCYX), weight_KKC, stride, pad, _cells(out_BCHW))
    return out_BCHW


def _cells(x_BCHW: Tensor) -> Array:
    """(B, H, W, C); bfloat16, which NumPy has not, as its bits."""
    x_BHWC = x_BCHW.detach().permute(0, 2, 3, 1)
    low = x_BHWC.dtype == torch.bfloat16
    return (x_BHWC.view(torch.uint16) if low else x_BHWC).numpy()


def _blocks(width: int, pad: int) -> Integers:
    """Where the blocks of a row begin, and its end."""
    if width <= _WIDEST:
        return np.array([0, width])
    size, (count, rest) = _WIDEST, divmod(width, _WIDEST)
    if (rest == 0 and pad) or pad >= rest:
        if count > 1:
            count, rest = count - 1, rest + size
        else:
            size, rest = size // 2, rest + size - size // 2
    edges = [size * n for n in range(count + 1)]
    return np.array(edges + ([width] if rest else []))


def _blocks_of_3(width: int) -> Integers:
    """The same for 3 x 3 taps without padding."""
    size = _CUT if width > _UNCUT else width
    return np.array([*range(0, width, size), width])


@parallel
def _weight_gradient(
    x_BHWC: Array, grad_BYXC: Array, stride: int, pad: int, blocks: Integers, out_KKC: Array
) -> None:
    (B, H, W, C), (_, Y, X, _), K = x_BHWC.shape, grad_BYXC.shape, len(out_KKC)
    # Two vectors side by side: memory is read in pairs of cache lines.
    G = min(C // LANES, 2)
    for task in numba.prange((C + G * LANES - 1) // (G * LANES)):
        # The last channels of a number that no vector divides are summed twice.
        first = min(task * G * LANES, C - G * LANES)
        x_GHWL = np.zeros((G, H, W + 2 * pad, LANES), np.float32)
        grad_GYXL = np.empty((G, Y, X, LANES), np.float32)
        sum_GKKL, row_KL = np.zeros((G, K, K, LANES), np.float32), np.empty((K, LANES), np.float32)
        for b in range(B):
            _take(x_BHWC[b], first, pad, x_GHWL)
            _take(grad_BYXC[b], first, 0, grad_GYXL)
            for g in range(G):
                _add_image(sum_GKKL[g], row_KL, x_GHWL[g], grad_GYXL[g], stride, (pad, blocks))
        for g in range(G):
            for k in range(K):
                for tap in range(K):
                    for lane in range(LANES):
                        out_KKC[k, tap, first + g * LANES + lane] = sum_GKKL[g, k, tap, lane]


@compiled
def _add_image(
    sum_KKL: Array,
    row_KL: Array,
    x_HWL: Array,
    grad_YXL: Array,
    stride: int,
    edges: tuple[int, Integers],
) -> None:
    (pad, blocks), H, K = edges, len(x_HWL), len(sum_KKL)
    if pad == 0:
        for n in range(len(blocks) - 1):
            left, right = blocks[n], blocks[n + 1]
            for y in range(len(grad_YXL)):
                for k in range(min(K, H - y * stride)):
                    x_WL = x_HWL[y * stride + k, left * stride :]
                    add_taps(sum_KKL[k], x_WL, grad_YXL[y, left:right], stride)
        return
    for y in range(len(grad_YXL)):
        top = y * stride - pad
        for k in range(max(0, -top), min(K, H - top)):
            for n in range(len(blocks) - 1):
                left, right = blocks[n], blocks[n + 1]
                row_KL[:] = 0
                add_taps(row_KL, x_HWL[top + k, left * stride :], grad_YXL[y, left:right], stride)
                for tap in range(K):
                    for lane in range(LANES):
                        sum_KKL[k, tap, lane] += row_KL[tap, lane]


@exact_parallel
def _input_gradient(
    grad_BYXC: Array, weight_KKC: Array, stride: int, pad: int, out_BHWC: Array
) -> None:
    (B, H, W, C), (_, Y, X, _), K = out_BHWC.shape, grad_BYXC.shape, len(weight_KKC)
    for task in numba.prange(B * H):
        b, y = task // H, task % H
        row_WC = np.zeros((W, C), np.float32)
        for k in range(K):
            above = y + pad - k
            if above < 0 or above % stride or above // stride >= Y:
                continue
            for tap in range(K):
                for at in range(X):
                    x = at * stride + tap - pad
                    if 0 <= x < W:
                        for c in range(C):
                            slope = widened(grad_BYXC[b, above // stride, at, c])
                            row_WC[x, c] = fma(slope, weight_KKC[k, tap, c], row_WC[x, c])
        for x in range(W):
            for c in range(C):
                out_BHWC[b, y, x, c] = narrowed(row_WC[x, c])


@compiled
def _take(from_HWC: Array, first: int, left: int, out_GHWL: Array) -> None:
    """Vectors of channels, from the first on, into rows with room on their left."""
    G, H, row, _ = out_GHWL.shape
    W, C = from_HWC.shape[1:]
    size, vector = np.uintp(from_HWC.itemsize), FLOAT * np.uintp(LANES)
    low = from_HWC.itemsize == 2
    read, written = address(from_HWC) + size * np.uintp(first), address(out_GHWL)
    for y in range(H):
        for x in range(W):
            at = read + size * np.uintp((y * W + x) * C)
            out = written + vector * np.uintp(y * row + left + x)
            for _ in range(G):
                if low:
                    _copy_low(at, out)
                else:
                    _copy(at, out)
                at, out = at + size * np.uintp(LANES), out + vector * np.uintp(H * row)


@compiled
def add_taps(sum_KL: Array, x_WL: Array, grad_XL: Array, stride: int) -> None:
    """Add grad[column] x[column stride + tap] to each tap's sum, column after column."""
    read, slopes, sums, count = address(x_WL), address(grad_XL), address(sum_KL), len(grad_XL)
    step = FLOAT * np.uintp(stride * LANES)
    K = len(sum_KL)
    if K == 5:
        _add_5(read, step, slopes, count, sums)
    elif K == 7:
        _add_7(read, step, slopes, count, sums)
    else:
        for tap in range(K):
            behind = FLOAT * np.uintp(tap * LANES)
            _add_1(read + behind, step, slopes, count, sums + behind)


def _adder(taps: int) -> Callable[..., Any]:
    """Of so many taps, in registers."""
    vector_bytes = LANES * int(FLOAT)

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        read, step, slopes, count, sums = values
        word = read.type
        at, slope_at = (variable(builder, each) for each in (read, slopes))
        places = [builder.add(sums, word(tap * vector_bytes)) for tap in range(taps)]
        totals = [variable(builder, load(builder, place, VECTOR)) for place in places]
        with cgutils.for_range(builder, count):
            here, slope = builder.load(at), load(builder, builder.load(slope_at), VECTOR)
            for tap, total in enumerate(totals):
                value = load(builder, builder.add(here, word(tap * vector_bytes)), VECTOR)
                terms = [value, slope, builder.load(total)]
                builder.store(call(builder, "fma", terms), total)
            builder.store(builder.add(here, step), at)
            builder.store(builder.add(builder.load(slope_at), word(vector_bytes)), slope_at)
        for place, total in zip(places, totals, strict=True):
            store(builder, builder.load(total), place)
        return context.get_dummy_value()

    @intrinsic
    def add(_context: Any, read: Any, step: Any, slopes: Any, count: Any, sums: Any) -> Codegen:
        return types.void(read, step, slopes, count, sums), generate

    return add


def _copier(take: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    """copy(from, to) of a vector of float32, or of bfloat16 that become float32."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        store(builder, take(builder, values[0], VECTOR), values[1])
        return context.get_dummy_value()

    @intrinsic
    def copy(_context: Any, read: Any, out: Any) -> Codegen:
        return types.void(read, out), generate

    return copy


@exact
def widened(bits: Any) -> Any:
    """The float32 that the bits of a bfloat16 are."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@exact
def narrowed(value: Any) -> Any:
    """The bits of the nearest bfloat16, between two of the even one; of no number one's."""
    bits = np.float32(value).view(np.uint32)
    up = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return np.uint16(0x7FC0) if np.isnan(value) else np.uint16(up >> np.uint32(16))


_copy, _copy_low = _copier(load), _copier(load_low)
_add_1, _add_5, _add_7 = _adder(1), _adder(5), _adder(7)

SPECIALISATIONS = (
    (
        _weight_gradient,
        (
            *(float32[:, :, :, ::1],) * 2,
            *(int64, int64, int64[::1]),
            float32[:, :, ::1],
        ),
    ),
)
"""What training calls, see `kernels.ahead`."""
