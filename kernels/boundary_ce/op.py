"""Boundary-weighted cross-entropy as an operation of PyTorch: Numba on the CPU, Triton on the GPU.

Both find loss and gradient in one sweep, so what the backward pass keeps is the gradient itself,
one number a logit, and what it does is one multiplication.

Axes: B batch, C class, H W pixels, h w strided cells.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernels.boundary_ce import cpu
from kernels.boundary_ce.reference import EPSILON, Weights, check
from kernels.gpu import power_of_two, uses_triton

SIZES = ("h", "w", "stride", "stride_b", "stride_c", "stride_y", "stride_x")
THREADS = 128
LAUNCH = {"num_warps": THREADS // 32, "maxnreg": 128}
"""Four blocks fit a multiprocessor. Left to itself ptxas aims at that too, and spills."""
CLASSES_PER_THREAD = 4
"""More take more registers, of which a class needs 13; fewer weigh a pixel on more threads."""
FEWEST_LANES = 8
"""Of a program's lanes one does its neighbour's work again."""
STRIP = 8
"""Rows of cells a program owns; it visits one more, whose pixels its neighbour visits too."""


def boundary_ce(
    logits_BChw: Tensor,
    label_BHW: Tensor,
    class_weight_C: Tensor,
    boundary_weight: float,
    *,
    align_corners: bool,
    ignored_edges: bool = False,
) -> Tensor:
    """Weighted cross-entropy of bilinearly upsampled logits, which are never stored.

    The mathematics is that of `kernels.boundary_ce.reference.boundary_ce`. The backward pass is
    deterministic; it keeps a float per logit, which is C / (H W / h w) of a float per pixel.

    Args:
        logits_BChw: (B, C, h, w), float32, bfloat16, float16 or float64; channels-last or
            contiguous, any other layout is copied. CPU or CUDA.
        label_BHW: (B, H, W), uint8 or int64, 0 .. C-1 or 255 = ignore; H and W are the same
            multiple of h and w. Another value is refused on the CPU; on CUDA, where telling would
            cost a synchronisation, the pixel weighs 0 but counts.
        class_weight_C: (C,), on the device of the logits; no gradient flows to it.
        boundary_weight: weight of pixels beside another label; 1 = plain cross-entropy.
        align_corners: how the logits are upsampled, as in `torch.nn.functional.interpolate`.
        ignored_edges: an ignored neighbour counts as class 0 (the published recipe) instead of
            making no edge.

    Returns:
        Scalar of the logits' dtype (at least float32); 0, with gradient 0, if all is ignored.

    Raises:
        ValueError: the shapes do not fit together, or on the CPU a label is out of range.
    """
    check(logits_BChw, label_BHW, class_weight_C)
    gradient = torch.is_grad_enabled() and logits_BChw.requires_grad
    weights = Weights(class_weight_C, boundary_weight, ignored_edges)
    loss: Tensor = _sweep(logits_BChw, label_BHW, *weights, align_corners, gradient)[0]
    return loss


def specialisations() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """All that decides the machine code of the Triton kernel, for every way the engine calls it.

    Yields:
        (kernel, signature, constexprs, launch options), the signature as `triton.tools.compile`
        writes it. Thirteen classes; and sixteen, whose cells are read 128 bits at a time.
    """
    from kernels.boundary_ce import triton as kernels

    for logits, classes, align_corners, ignored_edges, gradient in (
        ("fp32", 13, True, False, True),
        ("fp32", 13, True, False, False),
        ("fp32", 13, False, True, True),
        ("bf16", 13, True, False, True),
        ("bf16", 13, True, True, True),
        ("fp32", 16, True, False, True),
    ):
        pointers = {"logits": logits, "gradient": "fp32", "label": "u8", "weight_2C": "fp32"}
        pointers |= {"numerator": "fp32", "count_2": "i32"}
        signature = {name: f"*{type_}:16" for name, type_ in pointers.items()}
        signature |= dict.fromkeys(SIZES, "i32")
        constants = _constants(classes, classes == 16, align_corners, ignored_edges, gradient)
        yield kernels.boundary_ce_sweep, signature, constants, LAUNCH


def _constants(
    classes: int, packed: bool, align_corners: bool, ignored_edges: bool, gradient: bool
) -> dict[str, Any]:
    """What the kernel is compiled for, beside types."""
    threads = max(power_of_two(classes), CLASSES_PER_THREAD) // CLASSES_PER_THREAD
    return {
        "C": classes,
        "R": CLASSES_PER_THREAD,
        "Q": threads,
        "LANES": max(THREADS // threads, FEWEST_LANES),
        "STRIP": STRIP,
        "PACKED": packed,
        "ALIGN_CORNERS": align_corners,
        "IGNORED_EDGES": ignored_edges,
        "GRADIENT": gradient,
    }


@torch.library.custom_op("roomsmith::boundary_ce", mutates_args=())
def _sweep(  # noqa: PLR0913 - an operator's schema knows no types of ours
    logits_BChw: Tensor,
    label_BHW: Tensor,
    class_weight_C: Tensor,
    boundary_weight: float,
    ignored_edges: bool,
    align_corners: bool,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss; 1 / (sum of weights + epsilon), float64; gradient before that factor, or nothing."""
    x_BChw, slope = _dense_and_slope(logits_BChw, gradient)
    run = _on_gpu if uses_triton(x_BChw) else cpu.sweep
    weights = Weights(class_weight_C.to(slope.dtype), boundary_weight, ignored_edges)
    numerator, weight = run(x_BChw, slope, label_BHW.contiguous(), weights, align_corners)
    factor = 1 / (weight + EPSILON)
    return (numerator * factor).to(slope.dtype), factor, slope


@_sweep.register_fake
def _sweep_shapes(logits_BChw: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    x_BChw, slope = _dense_and_slope(logits_BChw, others[-1])
    return slope.new_empty(()), x_BChw.new_empty((), dtype=torch.float64), slope


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])
    ctx.logits_dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)  # or the other two would get gradients full of zeros


def _backward(
    ctx: Any, grad_loss: Tensor | None, _factor: None, _slope: None
) -> tuple[Tensor | None, ...]:
    factor, slope = ctx.saved_tensors
    if grad_loss is None:
        return (None,) * 7
    return ((slope * (grad_loss * factor)).to(ctx.logits_dtype), *(None,) * 6)


_sweep.register_autograd(_backward, setup_context=_keep)


def _dense_and_slope(logits_BChw: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    """The logits in a layout that fills its memory, and room for their gradient in the same."""
    x_BChw = logits_BChw
    if not x_BChw.is_contiguous(memory_format=torch.channels_last):
        x_BChw = x_BChw.contiguous()
    real = torch.promote_types(x_BChw.dtype, torch.float32)
    slope = torch.empty_like(x_BChw, dtype=real) if gradient else x_BChw.new_empty(0, dtype=real)
    return x_BChw, slope


def _on_gpu(
    logits_BChw: Tensor, slope: Tensor, label_BHW: Tensor, weights: Weights, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """As `cpu.sweep`, but no label is refused; does not wait for the device."""
    from kernels.boundary_ce import triton as kernels

    B, C, h, w = logits_BChw.shape
    packed = C % CLASSES_PER_THREAD == 0 and logits_BChw.stride() == (h * w * C, 1, w * C, C)
    gradient = slope.numel() > 0
    constants = _constants(C, packed, align_corners, weights.ignored_edges, gradient)
    grid = (-(-w // (constants["LANES"] - 1)), -(-h // STRIP), B)
    numerator = slope.new_empty(grid[0] * grid[1] * B)
    count_2 = slope.new_empty((len(numerator), 2), dtype=torch.int32)
    if B:
        weight_2C = torch.stack((weights.class_C, weights.boundary * weights.class_C))
        arrays = (logits_BChw, slope, label_BHW, weight_2C, numerator, count_2)
        sizes = (h, w, label_BHW.shape[1] // h, *logits_BChw.stride())
        kernels.boundary_ce_sweep[grid](*arrays, *sizes, **constants, **LAUNCH)
    counted, edges = count_2.sum(0, dtype=torch.float64).unbind()
    return numerator.sum(dtype=torch.float64), counted + (weights.boundary - 1) * edges
