"""Three steps that LLVM does not find by itself, in its own vectors; see kernels/vectors.py.

Each is exact: it gives what the plain loop in its docstring would give.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types

from kernels.vectors import FLOAT, Codegen, call, intrinsic, load, pointer, spread, store

_LINE = np.uintp(64)
"""Bytes of a cache line of x86 and most others. Elsewhere it is a size like any other."""

_BYTE = np.uintp(1)

_FUSED = ("contract",)
"""Lets LLVM make one fused operation of a multiplication and an addition."""


@numba.njit(cache=True)
def stream(row: np.uintp, out: np.uintp, count: np.uintp) -> None:
    """Copy bytes from the cache to memory without reading what is overwritten.

    An ordinary store to memory that is not cached reads it first. A crop is written once and is far
    larger than a core's cache, so that this costs half of the memory's time. `publish` must follow
    before another thread reads.
    """
    end, line = out + count, _next_line(out)
    while out < min(line, end):
        _copy_byte(row, out)
        row, out = row + _BYTE, out + _BYTE
    while out + _LINE <= end:
        _stream_line(row, out)
        row, out = row + _LINE, out + _LINE
    while out < end:
        _copy_byte(row, out)
        row, out = row + _BYTE, out + _BYTE


@numba.njit(cache=True)
def stream_blend(
    pair: tuple[np.uintp, np.uintp],
    weight: np.float32,
    bounds: tuple[np.uintp, np.uintp],
    out: np.uintp,
    count: np.uintp,
) -> None:
    """out[j] = upper[j] + weight (lower[j] - upper[j]), kept in low[j] .. high[j]; as `stream`.

    All are float32, `count` of each of the pair `upper` and `lower`; but of the bounds `low` and
    `high`, which have a period of three, only the first 18 are needed.
    """
    (upper, lower), (low, high) = pair, bounds
    end, line, phase = out + FLOAT * count, _next_line(out), np.uintp(0)
    while out < end:
        if out < line or out + _LINE > end:
            _blend_float(upper, lower, weight, low + phase, high + phase, out)
            step = FLOAT
        else:
            _blend_line(upper, lower, weight, low + phase, high + phase, out)
            step = _LINE
        upper, lower, out = upper + step, lower + step, out + step
        # One value or sixteen: both are one more than a multiple of the period.
        phase = phase + FLOAT if phase < FLOAT + FLOAT else np.uintp(0)


@numba.njit(cache=True)
def _next_line(out: np.uintp) -> np.uintp:
    """The first address from here on where a cache line begins."""
    return (out + _LINE - _BYTE) // _LINE * _LINE


@intrinsic
def publish(_context: Any) -> Codegen:
    """Let other threads see what was streamed: such stores are not ordered with others."""

    def generate(context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def lerp_pixel(_context: Any, tap: Any, weight: Any, factor: Any, term: Any, out: Any) -> Codegen:
    """out[c] = factor[c] (tap[c] + weight (tap[3 + c] - tap[c])) + term[c] for c = 0 to 3.

    All are float32. Four channels because vectors have four; the fourth is not one and is to be
    overwritten.
    """

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), 4)
        before, weight, factors, terms, out = values
        after = builder.add(before, before.type(3 * int(FLOAT)))
        first, second, factor_4, term_4 = (
            load(builder, each, vector) for each in (before, after, factors, terms)
        )
        value = _lerp(builder, first, second, weight)
        value = builder.fadd(builder.fmul(value, factor_4, flags=_FUSED), term_4, flags=_FUSED)
        store(builder, value, out)
        return context.get_dummy_value()

    return types.void(tap, weight, factor, term, out), generate


def _copier(count: int, *, past_cache: bool) -> Callable[..., Any]:
    """copy(row, out) of so many bytes."""
    vector = ir.VectorType(ir.IntType(8), count)

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        row, out = (pointer(builder, each, vector) for each in values)
        _store(builder, builder.load(row, align=1), out, past_cache)
        return context.get_dummy_value()

    @intrinsic
    def copy(_context: Any, row: Any, out: Any) -> Codegen:
        return types.void(row, out), generate

    return copy


def _blender(count: int, *, past_cache: bool) -> Callable[..., Any]:
    """blend(upper, lower, weight, low, high, out) of so many float32, as `stream_blend`."""
    vector = ir.VectorType(ir.FloatType(), count)

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        upper, lower, low, high = (load(builder, values[each], vector) for each in (0, 1, 3, 4))
        value = _lerp(builder, upper, lower, values[2])
        for name, bound in (("maxnum", low), ("minnum", high)):
            value = call(builder, name, [value, bound], fastmath=("nnan", "nsz"))
        _store(builder, value, pointer(builder, values[5], vector), past_cache)
        return context.get_dummy_value()

    @intrinsic
    def blend(
        _context: Any, upper: Any, lower: Any, weight: Any, low: Any, high: Any, out: Any
    ) -> Codegen:
        return types.void(upper, lower, weight, low, high, out), generate

    return blend


def _lerp(builder: Any, first: Any, second: Any, weight: Any) -> Any:
    weights = spread(builder, weight, first.type)
    step = builder.fmul(builder.fsub(second, first, flags=_FUSED), weights, flags=_FUSED)
    return builder.fadd(step, first, flags=_FUSED)


def _store(builder: Any, value: Any, out: Any, past_cache: bool) -> None:
    if not past_cache:
        builder.store(value, out, align=1)
        return
    store = builder.store(value, out, align=int(_LINE))
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))


_copy_byte, _stream_line = _copier(1, past_cache=False), _copier(int(_LINE), past_cache=True)
_blend_float = _blender(1, past_cache=False)
_blend_line = _blender(int(_LINE // FLOAT), past_cache=True)
