"""Every way the engine calls the Triton kernels: all that decides their machine code."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import kernels.adamw.launch as adamw
import kernels.boundary_ce.launch as boundary
import kernels.confusion.launch as counting
import kernels.crop_resize.launch as cropping
import kernels.depthwise_norm.launch as depthwise
import kernels.group_norm_relu.launch as norms
import kernels.scaled_weight.launch as scaling
import kernels.tta_accumulate.launch as views
from benchmarks.lowering import Specialisation
from kernels.adamw import Constants

CLASSES = 13
STAGES = ((128, 192), (256, 96), (512, 48), (1024, 24))
"""Channels and columns in ConvNeXt-B at 576 x 768."""


def specialisations(folder: str, arch: int) -> list[Specialisation]:
    """Those of the kernels that `kernels/FOLDER/launch.py` launches on sm_ARCH: the same on all."""
    ways: dict[str, Callable[[], Iterator[Specialisation]]] = {
        "adamw": _adamw,
        "boundary_ce": _boundary_ce,
        "confusion": _confusion,
        "crop_resize": _crop_resize,
        "depthwise_norm": _depthwise_norm,
        "group_norm_relu": _group_norm_relu,
        "scaled_weight": _scaled_weight,
        "tta_accumulate": _tta_accumulate,
    }
    return list(ways[folder]())


def _specialise(
    kernel: Any,
    types: Mapping[str, str | tuple[str, ...]],
    constants: dict[str, Any],
    options: dict[str, Any],
) -> Specialisation:
    """By the types of the arguments that are neither constant nor "i32"."""
    varying = [name for name in kernel.arg_names if name not in constants]
    signature = {name: types.get(name, "i32") for name in varying}
    return Specialisation(kernel, signature, constants, options)


def _adamw() -> Iterator[Specialisation]:
    """With PyTorch's betas; whatever is clipped to."""
    from kernels.adamw import triton

    constants = [Constants([], 0.9, 0.999, 1e-8, clip_norm) for clip_norm in (0.0, 1.0)]
    types = {"table_KT": "*i64:16", "chunk_N2": "*i32:16", "clip_norm": "fp32"}
    types |= dict.fromkeys(("partial_N", "scale_3T", "norm_2", "weight", "decay_T"), "*fp32:16")
    chunk = {"CHUNK": adamw.CHUNK, "BLOCK": adamw.BLOCK}
    yield _specialise(triton.sum_squares, types, chunk, adamw.LAUNCH)
    yield _specialise(triton.finish_norm, types, adamw.norm_constants(), adamw.SUMS_LAUNCH)
    yield _specialise(triton.count_step, types, adamw.step_constants(constants[0]), adamw.LAUNCH)
    for known in constants:
        yield _specialise(triton.update_weights, types, adamw.update_constants(known), adamw.LAUNCH)


def _boundary_ce() -> Iterator[Specialisation]:
    """Channels-last logits, whose stride of 1 Triton makes a constant, and planar ones."""
    from kernels.boundary_ce import triton, triton_ends

    pixels = {"label": "*u8:16", "code": "*u8:16", "count_2K": "*i32:16", "ticket": "*i32:16"}
    floats = ("class_weight", "weight_T", "slope", "numerator", "loss", "grad_loss")
    types = pixels | dict.fromkeys(floats, "*fp32:16") | {"factor": "*fp64:16", "boundary": "fp64"}
    for ignored_edges in (False, True):
        constants = boundary.encode_constants(CLASSES, ignored_edges)
        yield _specialise(triton_ends.boundary_ce_encode, types, constants, boundary.ENCODE)
    constants = boundary.sweep_constants(CLASSES, True, True)
    planar = types | {"logits": "*fp32:16"}
    yield _specialise(triton.boundary_ce_sweep, planar, constants, boundary.SWEEP)
    for logits, classes, align_corners, gradient in (
        ("*fp32:16", CLASSES, True, True),
        ("*fp32:16", CLASSES, True, False),
        ("*fp32:16", CLASSES, False, True),
        ("*bf16:16", CLASSES, True, True),
        ("*bf16:16", CLASSES, False, True),
        ("*fp32:16", 16, True, True),
        ("*fp32:16", 40, True, True),
    ):
        constants = boundary.sweep_constants(classes, align_corners, gradient) | {"stride_c": 1}
        arrays = types | {"logits": logits}
        yield _specialise(triton.boundary_ce_sweep, arrays, constants, boundary.SWEEP)
    for written in ("*fp32:16", "*bf16:16"):
        constants = boundary.finish_constants(CLASSES) | {"stride_c": 1}
        arrays = types | {"gradient": written}
        yield _specialise(triton_ends.boundary_ce_finish, arrays, constants, boundary.FINISH)


def _confusion() -> Iterator[Specialisation]:
    """Classes side by side, as `tta_accumulate.zero_total` makes them, or in planes.

    A stride of 1 is made a constant by Triton. Stores hold float16.
    """
    from kernels.confusion import triton, triton_blend

    types: dict[str, str | tuple[str, ...]] = {"count_KP": "*i64:16", "n": "i32:16"}
    types |= {"prediction_KN": "*u8:16", "label_N": "*u8:16"}
    constants = counting.count_constants(CLASSES)
    yield _specialise(triton.count_pairs, types, constants, counting.COUNT_LAUNCH)
    types = {"prob": "*fp32:16", "winner_BHW": "*u8:16"}
    for resized, side_by_side in product((True, False), ("prob_c", "prob_x")):
        constants = {"RESIZED": resized, **counting.run_constants(CLASSES), side_by_side: 1}
        yield _specialise(triton.write_winners, types, constants, counting.LAUNCH)
    types = dict.fromkeys(("proper", "label_BHW", "winner_BHW", "winner_KBHW"), "*u8:16")
    types |= {"prob_0": "*fp16:16", "prob_1": "*fp16:16", "note_KP": "*i32:16"}
    constants = counting.walk_constants(64, CLASSES, [(240, 320)] * 2)
    for real in ("*fp32:16", "*fp64:16"):
        types |= {"weight_KM": real, "share_K": real}
        yield _specialise(triton_blend.walk_blends, types, constants, counting.WALK_LAUNCH)
    types |= {"weight_KM": "*fp32:16", "prob_M": ("*fp16",) * 3}
    constants = counting.compare_constants(CLASSES, [(240, 320)] * 3)
    yield _specialise(triton_blend.write_blends, types, constants, counting.LAUNCH)


def _crop_resize() -> Iterator[Specialisation]:
    """The engine crops to multiples of 32 pixels."""
    from kernels.crop_resize.triton import crop_rows

    frames = ("*u8:16", "*u16:16", "*u8:16")
    # Parts of one upload: behind the first they begin where the number of crops puts them.
    tables = ("*i64:16", "*i32", "*i32", "*fp32")
    kinds = ((3, True, True), (4, True, True), (3, False, True), (4, True, False))
    for crop in ("*fp32:16", "*bf16:16"):
        arrays = (*frames, *tables, crop, "*fp32:16", "*u8:16")
        sizes_and_numbers = (*["i32:16"] * 2, *["fp32"] * 8)
        types = dict(zip(crop_rows.arg_names, arrays + sizes_and_numbers, strict=False))
        for channels, has_depth, has_label in kinds:
            missing = {"depth": None} if not has_depth else {}
            missing |= {"label": None} if not has_label else {}
            constants = {"C": channels, "BLOCK": cropping.BLOCK, **missing}
            yield _specialise(crop_rows, types, constants, cropping.LAUNCH)


def _depthwise_norm() -> Iterator[Specialisation]:
    """ConvNeXt-B's stages in bfloat16; its first in float32, and of a width that no tile divides.

    And the last of ConvNeXt-T, where 768 channels leave threads without work. The convolution's
    gradients with a residual's and without.
    """
    from kernels.depthwise_norm.triton import convolve_and_normalise
    from kernels.depthwise_norm.triton_backward import convolve_backward, normalise_backward

    parameters = ("taps_TC", "bias_C", "gamma_C", "beta_C", "rstd_N", "sums_P2C", "sums_PTC")
    arrays = ("x", "y", "normal", "grad_y", "residual", "grad_x", "slope")
    cases = [("*bf16:16", c, width, True) for c, width in STAGES]
    cases += [("*fp32:16", 128, 192, True), ("*bf16:16", 128, 199, False)]
    cases += [("*bf16:16", 768, 24, True)]
    for type_, channels, width, gradient in cases:
        types = dict.fromkeys(parameters, "*fp32:16") | dict.fromkeys(arrays, type_)
        itemsize = 4 if "fp32" in type_ else 2
        tile, options = depthwise.forward_tile(channels, width, itemsize)
        tile |= {"EPS": 1e-6, "GRADIENT": gradient}
        launches = [
            (convolve_and_normalise, tile, options),
            (normalise_backward, *depthwise.norm_tile(channels)),
        ]
        # This knows the channels only by their stride, so that one stage is as good as another.
        if channels == 128:
            for without in ({}, {"residual": None}):
                tile = depthwise.back_tile(width, itemsize) | without
                launches.append((convolve_backward, tile, depthwise.BACK_LAUNCH))
        for kernel, constants, options in launches:
            yield _specialise(kernel, types, {"C": channels, **constants}, options)


def _group_norm_relu() -> Iterator[Specialisation]:
    """The FPN's 128 channels in 32 groups; the last norm of a level adds, or not, others double."""
    from kernels.group_norm_relu import triton, triton_backward

    channels, groups = 128, 32
    of_sums = dict.fromkeys(("table", "moment", "total", "mean", "weight", "bias"), "*fp32:16")
    merge = norms.merge_constants(channels, groups)
    for kernel in (triton.merge_moments, triton_backward.merge_gradients):
        yield _specialise(kernel, of_sums | {"eps": "fp32"}, merge, norms.LAUNCH)
    for cell in ("*bf16:16", "*fp32:16"):
        types = of_sums | dict.fromkeys(("x", "y", "added", "grad_y", "grad_x", "given"), cell)
        yield _specialise(triton.run_moments, types, norms.tile(channels), norms.LAUNCH)
        tile = norms.tile(channels, groups=groups)
        for constants in (tile, tile | {"added": None}):
            yield _specialise(triton.normalise, types, constants, norms.LAUNCH)
        doubled = norms.tile(channels, doubled=True, groups=groups)
        for constants in (doubled, doubled | {"added": None}):
            yield _specialise(triton.normalise_doubled, types, constants, norms.LAUNCH)
        for yes, constants in ((False, tile), (True, doubled)):
            kernel = triton_backward.run_gradients
            yield _specialise(kernel, types, constants | {"DOUBLED": yes}, norms.LAUNCH)
            kernel = triton_backward.input_gradient
            yield _specialise(kernel, types, tile | {"MASKED": yes}, norms.LAUNCH)


def _scaled_weight() -> Iterator[Specialisation]:
    """The stages of ConvNeXt-B, whose MLPs are four times as wide; the last in float32 too."""
    from kernels.scaled_weight import triton

    parameters = ("weight", "bias_C", "gamma_C", "grad_weight", "grad_bias_C", "grad_gamma_C")
    made = ("weight_low", "bias_low_C", "grad_low", "grad_bias_low_C")
    cases = [("*bf16:16", 4 * channels) for channels, _ in STAGES]
    for low, inputs in (*cases, ("*fp32:16", 4096)):
        types = dict.fromkeys(parameters, "*fp32:16") | dict.fromkeys(made, low)
        for kernel in (triton.scale_rows, triton.scale_rows_backward):
            yield _specialise(kernel, types, scaling.constants(inputs), scaling.LAUNCH)


def _tta_accumulate() -> Iterator[Specialisation]:
    """A GPU's totals come from `zero_total` and keep a row's pixels side by side.

    The logits are float32, as `engine.views.view_sum` keeps them; a single view's may be bfloat16.
    """
    from kernels.tta_accumulate import triton

    types = {"total": "*fp32", "corner_K4": "*i64:16", "row_R4H": "*i32:16"}
    types |= {"column_S4W": "*i32:16", "inverse_T": "*fp32:16"}
    for logits, classes, temperatures in (
        ("*fp32:16", CLASSES, 4),
        ("*bf16:16", CLASSES, 4),
        ("*fp32:16", CLASSES, 1),
        ("*fp32:16", views.MOST_CLASSES, 4),
        ("*fp32:16", 150, 4),
    ):
        form = views.choose_form(classes, temperatures)
        constants = {**form.constants, "total_x": 1}
        kernel = getattr(triton, form.name)
        yield _specialise(kernel, {"logits": logits, **types}, constants, form.options)
