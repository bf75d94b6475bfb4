"""Steps in LLVM's own vectors, for loops of which it makes none by itself.

A kernel that uses them has a Python twin of the step, or a guard page in its tests: they take
addresses, and nothing tests that these are within an array. Addresses and not arrays, since whoever
is handed an array counts the reference with an atomic instruction, which waits for every streamed
store before it. The caller keeps the arrays alive.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _untyped
from numba.extending import overload

FLOAT = np.uintp(4)
"""Bytes of a float32."""
LANES = 16
"""float32 of a vector: 64 bytes, which LLVM splits where a processor's vectors are shorter."""
VECTOR = ir.VectorType(ir.FloatType(), LANES)

Codegen = tuple[Any, Callable[[Any, Any, Any, Any], Any]]

intrinsic: Callable[[Callable[..., Codegen]], Callable[..., Any]] = _untyped
"""Numba's own type has the typing context among the arguments of a call."""


def compiled_form_of(python: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorates what a function is where it is compiled: the same result, by other steps."""

    def register(fast: Callable[..., Any]) -> Callable[..., Any]:
        overload(python, strict=False)(lambda *_types: fast)
        return fast

    return register


@intrinsic
def address(_context: Any, array: Any) -> Codegen:
    """Where an array begins."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = cgutils.create_struct_proxy(signature.args[0])  # type: ignore[no-untyped-call]
        data = array(context, builder, values[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.uintp))

    return types.uintp(array), generate


@intrinsic
def fma(_context: Any, factor: Any, other: Any, term: Any) -> Codegen:
    """The product of the first two plus the third, rounded once."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.fma(*values)

    return term(factor, other, term), generate


def pointer(builder: Any, where: Any, vector: Any) -> Any:
    """An address as a pointer to a vector."""
    return builder.inttoptr(where, vector.as_pointer())


def load(builder: Any, where: Any, vector: Any, align: int = int(FLOAT)) -> Any:
    """The vector at an address."""
    return builder.load(pointer(builder, where, vector), align=align)


def load_low(builder: Any, where: Any, vector: Any) -> Any:
    """The vector of float32 that the bfloat16 at an address are."""
    bits = ir.VectorType(ir.IntType(32), vector.count)
    halves = load(builder, where, ir.VectorType(ir.IntType(16), vector.count), align=2)
    shift = ir.Constant(bits, [16] * vector.count)
    return builder.bitcast(builder.shl(builder.zext(halves, bits), shift), vector)


def store(builder: Any, value: Any, where: Any) -> None:
    """Write a vector of float32 to an address."""
    builder.store(value, pointer(builder, where, value.type), align=int(FLOAT))


def spread(builder: Any, value: Any, vector: Any) -> Any:
    """A vector of one value."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(one, one, zeros)


def variable(builder: Any, value: Any) -> Any:
    """Where a loop keeps a value, which LLVM makes a register."""
    return cgutils.alloca_once_value(builder, value)  # type: ignore[no-untyped-call]


def call(builder: Any, name: str, values: list[Any], **options: Any) -> Any:
    """What LLVM's own function of a name makes of values of one type."""
    kind = values[0].type
    short = {"float": "f32", "i8": "i8", "i64": "i64"}[str(kind.element)]
    function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module,
        ir.FunctionType(kind, [kind] * len(values)),
        f"llvm.{name}.v{kind.count}{short}",
    )
    return builder.call(function, values, **options)
