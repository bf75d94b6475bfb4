"""The steps of a group norm's gradients, of columns of a few rows; see kernels/columns.py.

Products that PyTorch's build fuses into sums are fused by name.
"""

from typing import Any

from kernels.columns import Names, Values, columns_of
from kernels.vectors import call


def _sum_fused(builder: Any, v: Values) -> Values:
    dot = call(builder, "fma", [v["x"], v["grad"], v["dot"]])
    return {"dot": dot, "sum": builder.fadd(v["sum"], v["grad"])}


def _sum_rounded(builder: Any, v: Values) -> Values:
    dot = builder.fadd(v["dot"], builder.fmul(v["x"], v["grad"]))
    return {"dot": dot, "sum": builder.fadd(v["sum"], v["grad"])}


def _gradient(builder: Any, v: Values) -> Values:
    of_grad = builder.fmul(v["of_grad"], v["grad"])
    return {"out": builder.fadd(call(builder, "fma", [v["of_x"], v["x"], of_grad]), v["rest"])}


_SUMS = Names(("x", "grad"), sums=("dot", "sum"))

sum_fused = columns_of(_SUMS, _sum_fused)
sum_rounded = columns_of(_SUMS, _sum_rounded)
write_gradient = columns_of(
    Names(("x", "grad"), ("of_grad", "of_x", "rest"), writes=("out",)), _gradient
)
