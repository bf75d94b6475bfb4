"""The steps of a batch norm, of columns of a few rows; see kernels/columns.py.

Products that PyTorch's build fuses into sums are fused by name.
"""

from typing import Any

from llvmlite import ir

from kernels.columns import Names, Values, columns_of
from kernels.vectors import call


def _sum(builder: Any, v: Values) -> Values:
    return {"sum": builder.fadd(v["x"], v["sum"])}


def _sum_squares(builder: Any, v: Values) -> Values:
    apart = builder.fsub(v["x"], v["mean"])
    return {"square": call(builder, "fma", [apart, apart, v["square"]])}


def _normalised(builder: Any, v: Values) -> Any:
    return call(builder, "fma", [v["x"], v["scale"], v["shift"]])


def _cut(builder: Any, v: Values) -> Values:
    value = _normalised(builder, v)
    for bound, beyond in (("low", "<"), ("high", ">")):
        value = builder.select(builder.fcmp_ordered(beyond, value, v[bound]), v[bound], value)
    return {"out": value}


def _slope(builder: Any, v: Values) -> Any:
    """The gradient where nothing is cut off."""
    value = _normalised(builder, v)
    below = builder.fcmp_ordered("<=", value, v["low"])
    above = builder.fcmp_ordered(">=", value, v["high"])
    zero = ir.Constant(value.type, [0.0] * value.type.count)
    return builder.select(builder.or_(below, above), zero, v["grad"])


def _sum_slopes(builder: Any, v: Values) -> Values:
    slope, apart = _slope(builder, v), builder.fsub(v["x"], v["mean"])
    dot = call(builder, "fma", [apart, slope, v["dot"]])
    return {"sum": builder.fadd(v["sum"], slope), "dot": dot}


def _slope_of_input(builder: Any, v: Values) -> Values:
    apart = builder.fsub(v["x"], v["mean"])
    about = builder.fsub(_slope(builder, v), v["grad_mean"])
    rest = call(builder, "fma", [builder.fneg(apart), v["pull"], about])
    return {"out": builder.fmul(builder.fmul(rest, v["inverse"]), v["weight"])}


_AFFINE = ("scale", "shift")

sum_rows = columns_of(Names(("x",), sums=("sum",)), _sum)
sum_squares = columns_of(Names(("x",), ("mean",), ("square",)), _sum_squares)
normalise_rows = columns_of(Names(("x",), _AFFINE, writes=("out",)), _cut)
sum_slopes = columns_of(Names(("x", "grad"), (*_AFFINE, "mean"), ("sum", "dot")), _sum_slopes)
write_slopes = columns_of(
    Names(
        ("x", "grad"),
        (*_AFFINE, "mean", "grad_mean", "pull", "inverse", "weight"),
        writes=("out",),
    ),
    _slope_of_input,
)
