"""Columns of a few rows in LLVM's own vectors, for kernels that go down channels-last cells.

LLVM makes vectors of a loop over so many arrays only if it can tell that none overlaps another,
which it gives up to ask beyond four. Each step here walks down rows with the numbers of its
channels in registers, 16 channels at a time, or 8 of what is left. See kernels/vectors.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import overload
from torch import Tensor

from kernels.cpu import Array
from kernels.vectors import Codegen, intrinsic, load, load_low, spread, store, variable

Values = dict[str, Any]
Body = Callable[[Any, Values], Values]
"""From a builder and values by name to the sums and results of one row."""


class Names(NamedTuple):
    """What a step is handed, in the order of its addresses.

    Attributes:
        reads: tables of rows, float32 or bfloat16.
        numbers: float32 of channels.
        sums: likewise, replaced by what the body returns under their names.
        writes: tables that are given what it returns under their names.
    """

    reads: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def cells_of(x_BChw: Tensor) -> Array:
    """(N, C) of channels-last cells; bfloat16, which NumPy has not, as its bits."""
    x_BhwC = x_BChw.detach().permute(0, 2, 3, 1)
    low = x_BhwC.dtype == torch.bfloat16
    return (x_BhwC.view(torch.uint16) if low else x_BhwC).flatten(0, 2).numpy()


def columns_of(names: Names, body: Body) -> Callable[..., None]:
    """f(x_NC, rows, (low, high), addresses): `body`, of each value of so many rows.

    The body is handed `low` and `high`, too. Channels are those of `x_NC`, a multiple of 8; its
    dtype, float32 or the bits of bfloat16, is that of all tables.
    """

    def columns(x_NC: Any, rows: Any, bounds: Any, at: Any) -> None:  # noqa: ARG001
        raise TypeError("compiled kernels alone can call it")

    @overload(columns, strict=False)
    def of_dtype(x_NC: Any, *_others: Any) -> Callable[..., None]:
        # Of one dtype only: both would take twice as long to compile.
        low = x_NC.dtype == types.uint16
        wide, narrow = (_step(lanes, names, body, low=low) for lanes in (16, 8))

        def run(x_NC: Any, rows: Any, bounds: Any, at: Any) -> None:
            channels, (low, high) = x_NC.shape[1], bounds
            whole = channels // 16 * 16
            for c in range(0, whole, 16):
                wide(rows, channels, c, low, high, at)
            if whole < channels:
                narrow(rows, channels, whole, low, high, at)

        return run

    return columns


def _step(lanes: int, names: Names, body: Body, *, low: bool) -> Callable[..., None]:
    vector, tables = ir.VectorType(ir.FloatType(), lanes), names.reads + names.writes
    take, put = (load_low, _put_low) if low else (load, store)

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        rows, channels, first, least, most, places = values
        word, flat = first.type, [name for group in names for name in group]
        itemsize = {name: 2 if low and name in tables else 4 for name in flat}
        at = {
            name: builder.add(
                builder.extract_value(places, n), builder.mul(first, word(itemsize[name]))
            )
            for n, name in enumerate(flat)
        }
        known = {name: load(builder, at[name], vector) for name in names.numbers}
        known |= {"low": spread(builder, least, vector), "high": spread(builder, most, vector)}
        totals = {name: variable(builder, load(builder, at[name], vector)) for name in names.sums}
        row_at = {name: variable(builder, at[name]) for name in tables}
        with cgutils.for_range(builder, rows):
            here = {name: builder.load(place) for name, place in row_at.items()}
            given = known | {name: take(builder, here[name], vector) for name in names.reads}
            given |= {name: builder.load(total) for name, total in totals.items()}
            made = body(builder, given)
            for name, total in totals.items():
                builder.store(made[name], total)
            for name in names.writes:
                put(builder, made[name], here[name])
            for name, place in row_at.items():
                pitch = builder.mul(channels, word(itemsize[name]))
                builder.store(builder.add(here[name], pitch), place)
        for name, total in totals.items():
            store(builder, builder.load(total), at[name])
        return context.get_dummy_value()

    @intrinsic
    def step(
        _context: Any, rows: Any, channels: Any, first: Any, low: Any, high: Any, at: Any
    ) -> Codegen:
        return types.void(rows, channels, first, low, high, at), generate

    return step


def _put_low(builder: Any, value: Any, where: Any) -> None:
    """Write values of float32 as bfloat16: the nearest, and between two the even one."""
    count = value.type.count
    kind = ir.VectorType(ir.IntType(32), count)
    bits = builder.bitcast(value, kind)

    def number(of: int) -> Any:
        return ir.Constant(kind, [of] * count)

    odd = builder.and_(builder.lshr(bits, number(16)), number(1))
    up = builder.lshr(builder.add(builder.add(bits, number(0x7FFF)), odd), number(16))
    # Adding would carry a NaN's last bits into its sign.
    up = builder.select(builder.fcmp_unordered("uno", value, value), number(0x7FC0), up)
    halves = builder.trunc(up, ir.VectorType(ir.IntType(16), count))
    builder.store(halves, builder.inttoptr(where, halves.type.as_pointer()), align=2)
