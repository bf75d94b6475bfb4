"""Every way the engine calls the Triton kernels: all that decides their machine code."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import kernels.boundary_ce.launch as boundary
import kernels.confusion.launch as counting
import kernels.crop_resize.launch as cropping
import kernels.depthwise_norm.launch as depthwise
import kernels.tta_accumulate.launch as views

CLASSES = 13
STAGES = ((128, 192), (256, 96), (512, 48), (1024, 24))
"""Channels and columns in ConvNeXt-B at 576 x 768."""


class Specialisation(NamedTuple):
    """What Triton compiles."""

    kernel: Any
    """The function under `@triton.jit`."""
    signature: dict[str, str]
    """Argument -> type, as Triton's compiler writes it: "*fp32"; ":16" where a multiple of 16."""
    constants: dict[str, Any]
    """Argument -> value."""
    options: dict[str, Any]
    """Of the launch: num_warps and others."""


def specialisations(folder: str, arch: int) -> list[Specialisation]:
    """Those of the kernels that `kernels/FOLDER/launch.py` launches on sm_ARCH."""
    ways: dict[str, Callable[[], Iterator[Specialisation]]] = {
        "boundary_ce": partial(_boundary_ce, arch),
        "confusion": _confusion,
        "crop_resize": _crop_resize,
        "depthwise_norm": _depthwise_norm,
        "tta_accumulate": _tta_accumulate,
    }
    return list(ways[folder]())


def _specialise(
    kernel: Any, types: Mapping[str, str], constants: dict[str, Any], options: dict[str, Any]
) -> Specialisation:
    """By the types of the arguments that are neither constant nor "i32"."""
    varying = [name for name in kernel.arg_names if name not in constants]
    signature = {name: types.get(name, "i32") for name in varying}
    return Specialisation(kernel, signature, constants, options)


def _boundary_ce(arch: int) -> Iterator[Specialisation]:
    """With 13 classes; and with 16, which are read 128 bits at a time."""
    from kernels.boundary_ce.triton import boundary_ce_sweep

    arrays = {"gradient": "*fp32:16", "label": "*u8:16", "weight_2C": "*fp32:16"}
    arrays |= {"numerator": "*fp32:16", "count_2": "*i32:16"}
    for logits, classes, align_corners, ignored_edges, gradient in (
        ("*fp32:16", CLASSES, True, False, True),
        ("*fp32:16", CLASSES, True, False, False),
        ("*fp32:16", CLASSES, False, True, True),
        ("*bf16:16", CLASSES, True, False, True),
        ("*bf16:16", CLASSES, True, True, True),
        ("*fp32:16", 16, True, False, True),
    ):
        constants = boundary.tile_constants(
            classes, classes == 16, align_corners, ignored_edges, gradient
        )
        types = {"logits": logits, **arrays}
        launch = boundary.options(divmod(arch, 10))
        yield _specialise(boundary_ce_sweep, types, constants, launch)


def _confusion() -> Iterator[Specialisation]:
    """The probabilities' classes lie side by side: a stride of 1, which Triton makes a constant.

    `tta_accumulate.zero_total` makes them so. Stores hold float16.
    """
    from kernels.confusion import triton

    types = {"prediction_KN": "*u8:16", "label_N": "*u8:16", "count_KP": "*i64:16", "n": "i32:16"}
    table = {"P": counting.table(CLASSES)}
    constants = {"CLASSES": CLASSES, "L": counting.PIXELS, **table}
    yield _specialise(triton.count_pairs, types, constants, counting.LAUNCH)
    types = dict.fromkeys(("settle", "label_BHW", "winner_BHW"), "*u8")
    types |= dict.fromkeys(("count_P", "count_KP", "settled_P"), "*i64")
    for resized in (True, False):
        tile = {"RESIZED": resized, **counting.tile(CLASSES, 1), "prob_c": 1}
        for kernel, constants in (
            (triton.count_winners, tile | table),
            (triton.write_winners, tile),
        ):
            yield _specialise(kernel, {"prob": "*fp32", **types}, constants, counting.LAUNCH)
    types |= {"prob": "*fp16", "weight_KM": "*fp32"}
    for models in (2, 3):
        constants = counting.blend_constants(CLASSES, [(240, 320)] * models)
        yield _specialise(triton.count_blends, types, constants, counting.BLEND_LAUNCH)


def _crop_resize() -> Iterator[Specialisation]:
    """The engine crops to multiples of 32 pixels."""
    from kernels.crop_resize.triton import crop_rows

    frames = ("*u8:16", "*u16:16", "*u8:16", "*i64:16", "*i64:16")
    kinds = ((3, True, True), (4, True, True), (3, False, True), (4, True, False))
    for crop in ("*fp32:16", "*bf16:16"):
        arrays = (*frames, "*fp64:16", crop, "*fp32:16", "*u8:16")
        sizes_and_numbers = (*["i32:16"] * 2, *["fp32"] * 8)
        types = dict(zip(crop_rows.arg_names, arrays + sizes_and_numbers, strict=False))
        for channels, has_depth, has_label in kinds:
            missing = {"depth": None} if not has_depth else {}
            missing |= {"label": None} if not has_label else {}
            constants = {"C": channels, "BLOCK": cropping.BLOCK, **missing}
            yield _specialise(crop_rows, types, constants, cropping.LAUNCH)


def _depthwise_norm() -> Iterator[Specialisation]:
    """ConvNeXt-B's stages in bfloat16; its first in float32, and of a width that no tile divides.

    And the last of ConvNeXt-T, where 768 channels leave threads without work.
    """
    from kernels.depthwise_norm.triton import convolve_and_normalise, convolve_transposed
    from kernels.depthwise_norm.triton_backward import normalise_backward, sum_taps

    parameters = ("taps_TC", "bias_C", "gamma_C", "beta_C", "rstd_N", "sums_P2C", "sums_PTC")
    arrays = ("x", "y", "normal", "grad_y", "grad_x", "slope")
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
            (convolve_transposed, *depthwise.transposed_tile(channels, width, itemsize)),
            (normalise_backward, *depthwise.norm_tile(channels)),
        ]
        # This knows the channels only by their stride, so that one stage is as good as another.
        if channels == 128:
            launches.append((sum_taps, depthwise.taps_tile(width, itemsize), depthwise.TAP_LAUNCH))
        for kernel, constants, options in launches:
            yield _specialise(kernel, types, {"C": channels, **constants}, options)


def _tta_accumulate() -> Iterator[Specialisation]:
    """Totals come from `zero_total` and logits are channels-last: strides of 1, made constants."""
    from kernels.tta_accumulate.triton import add_view

    temperatures, yes_no = (0.7, 0.8, 0.9, 1.0), (True, False)
    for logits, resized, align_corners in product(("*fp32", "*bf16"), yes_no, yes_no):
        constants = views.tile_constants(temperatures, CLASSES, resized, align_corners)
        constants |= {"total_c": 1, "logits_c": 1}
        types = {"total": "*fp32", "logits": logits}
        yield _specialise(add_view, types, constants, views.LAUNCH)
