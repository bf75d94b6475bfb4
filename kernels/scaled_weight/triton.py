"""Weights times a scale of each output on the GPU, and the gradients of both factors.

A program has one row of the weights: its scale is one number, and the gradient of that scale one
sum, which the program makes alone and in one order. Rows are of known length, and gone through
without a loop: nothing of a part waits for the one before, so all are loaded at once.

Axes: C outputs, one a program; D inputs of the layer.
"""

import triton
import triton.language as tl


@triton.jit
def scale_rows(
    weight, bias_C, gamma_C, weight_low, bias_low_C, D: tl.constexpr, BLOCK: tl.constexpr
):
    """Write gamma W and gamma b. Grid: (C,).

    Args:
        weight: (C, D) packed, float32 or float64.
        bias_C: (C,), as weight.
        gamma_C: (C,), as weight.
        weight_low: (C, D), floating, written.
        bias_low_C: (C,), written.
        D: inputs.
        BLOCK: of them in a part, a power of two.
    """
    c = tl.program_id(0)
    gamma = tl.load(gamma_C + c)
    tl.store(bias_low_C + c, (gamma * tl.load(bias_C + c)).to(bias_low_C.dtype.element_ty))
    row = c.to(tl.int64) * D
    for first in tl.static_range(0, D, BLOCK):
        d = first + tl.arange(0, BLOCK)
        scaled = gamma * tl.load(weight + row + d, d < D, 0.0)
        tl.store(weight_low + row + d, scaled.to(weight_low.dtype.element_ty), d < D)


@triton.jit
def scale_rows_backward(
    grad_low,
    grad_bias_low_C,
    weight,
    bias_C,
    gamma_C,
    grad_weight,
    grad_bias_C,
    grad_gamma_C,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradients of W, b and gamma. Grid: (C,).

    Args:
        grad_low: (C, D) packed, floating, the gradient of gamma W.
        grad_bias_low_C: (C,), that of gamma b.
        weight: (C, D) packed, float32 or float64.
        bias_C: (C,), as weight.
        gamma_C: (C,), as weight.
        grad_weight: (C, D), as weight, written.
        grad_bias_C: (C,), as weight, written.
        grad_gamma_C: (C,), as weight, written.
        D: inputs.
        BLOCK: of them in a part, a power of two.
    """
    real: tl.constexpr = weight.dtype.element_ty
    c = tl.program_id(0)
    gamma = tl.load(gamma_C + c)
    grad_bias = tl.load(grad_bias_low_C + c).to(real)
    tl.store(grad_bias_C + c, gamma * grad_bias)
    row = c.to(tl.int64) * D
    total = tl.zeros([BLOCK], real)
    for first in tl.static_range(0, D, BLOCK):
        d = first + tl.arange(0, BLOCK)
        grad = tl.load(grad_low + row + d, d < D, 0.0).to(real)
        total += grad * tl.load(weight + row + d, d < D, 0.0)
        tl.store(grad_weight + row + d, gamma * grad, d < D)
    tl.store(grad_gamma_C + c, tl.sum(total, 0) + grad_bias * tl.load(bias_C + c))
