"""Two steps of a view in LLVM's own vectors; see kernels/vectors.py.

LLVM takes class after class of a pixel through a register of one number each: its loops would need
a gather, or the rows of a matrix as columns.

Axes: K classes, padded to whole vectors; X a view's columns, padded too; W base columns.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from kernels.cpu import ONE, Array, Taps, compiled
from kernels.vectors import (
    FLOAT,
    LANES,
    VECTOR,
    Codegen,
    address,
    call,
    compiled_form_of,
    intrinsic,
    load,
    spread,
    store,
)


@compiled
def padded(count: int) -> int:
    """In whole vectors."""
    return (count + LANES - 1) // LANES * LANES


def transpose(in_RC: Array, factor_C: Array, out_CR: Array, rows: int, columns: int) -> None:
    """out[c, r] = in[r, c] factor[c] of the first rows and columns, which are whole vectors."""
    out_CR[:columns, :rows] = (in_RC[:rows, :columns] * factor_C[:columns]).T


@compiled_form_of(transpose)
def _transpose_blocks(
    in_RC: Array, factor_C: Array, out_CR: Array, rows: int, columns: int
) -> None:
    pitch, out_pitch = FLOAT * np.uintp(in_RC.shape[1]), FLOAT * np.uintp(out_CR.shape[1])
    read, factors, written = address(in_RC), address(factor_C), address(out_CR)
    for r in range(0, rows, LANES):
        for c in range(0, columns, LANES):
            right = FLOAT * np.uintp(c)
            block = read + np.uintp(r) * pitch + right
            out = written + np.uintp(c) * out_pitch + FLOAT * np.uintp(r)
            _transpose_block(block, pitch, factors + right, out, out_pitch)


def lerp_row(
    in_p: Array, pitch: int, across_W: Taps, out_p: Array, out_pitch: int, fuse_far: bool
) -> None:
    """Interpolate between pixels of a row, all of whose classes lie side by side.

    Of the near and the far part one is fused into the sum and the other rounded first, which is
    part of the result. Pixels begin every `pitch` numbers. Whole vectors are read and written: what
    is behind a pixel's classes is undefined, where the next pixel begins there it overwrites that,
    and behind the last pixel both rows need a vector's room.
    """
    C = min(pitch, out_pitch)
    for x, (first, second, part) in enumerate(zip(*across_W, strict=True)):
        for c in range(C):
            near, far = (ONE - part, in_p[first * pitch + c]), (part, in_p[second * pitch + c])
            fused, rounded = (far, near) if fuse_far else (near, far)
            sum_ = float(fused[0]) * float(fused[1]) + float(rounded[0] * rounded[1])
            out_p[x * out_pitch + c] = sum_


@compiled_form_of(lerp_row)
def _lerp_vectors(
    in_p: Array, pitch: int, across_W: Taps, out_p: Array, out_pitch: int, fuse_far: bool
) -> None:
    first, second, part = across_W
    read, out = address(in_p), address(out_p)
    step, out_step = FLOAT * np.uintp(pitch), FLOAT * np.uintp(out_pitch)
    for x in range(len(part)):
        near, far = read + step * np.uintp(first[x]), read + step * np.uintp(second[x])
        rest = ONE - part[x]
        for k in range(0, min(pitch, out_pitch), LANES):
            behind = FLOAT * np.uintp(k)
            if fuse_far:
                _fused_sum(part[x], far + behind, rest, near + behind, out + behind)
            else:
                _fused_sum(rest, near + behind, part[x], far + behind, out + behind)
        out += out_step


@intrinsic
def _fused_sum(
    _context: Any, fused: Any, first: Any, weight: Any, second: Any, out: Any
) -> Codegen:
    """Write fused first + (weight second), where the product in brackets is rounded."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        fused, first, weight, second, out = values
        product = builder.fmul(spread(builder, weight, VECTOR), load(builder, second, VECTOR))
        terms = [spread(builder, fused, VECTOR), load(builder, first, VECTOR), product]
        store(builder, call(builder, "fma", terms), out)
        return context.get_dummy_value()

    return types.void(fused, first, weight, second, out), generate


@intrinsic
def _transpose_block(
    _context: Any, rows: Any, pitch: Any, factors: Any, out: Any, out_pitch: Any
) -> Codegen:
    """A square of vectors, times a vector: what was row becomes column."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        at, pitch, factors, out, out_pitch = values
        factor, block = load(builder, factors, VECTOR), []
        for _ in range(LANES):
            block.append(builder.fmul(load(builder, at, VECTOR), factor))
            at = builder.add(at, pitch)
        # Halves, then quarters, ... change places across the diagonal.
        for half in (8, 4, 2, 1):
            upper = [lane if not lane & half else LANES + (lane ^ half) for lane in range(LANES)]
            lower = [lane | half if not lane & half else LANES + lane for lane in range(LANES)]
            for row in (row for row in range(LANES) if not row & half):
                pair = block[row], block[row | half]
                block[row], block[row | half] = (
                    builder.shuffle_vector(*pair, ir.Constant(_LANES, lanes))
                    for lanes in (upper, lower)
                )
        for row in block:
            store(builder, row, out)
            out = builder.add(out, out_pitch)
        return context.get_dummy_value()

    return types.void(rows, pitch, factors, out, out_pitch), generate


_LANES = ir.VectorType(ir.IntType(32), LANES)
