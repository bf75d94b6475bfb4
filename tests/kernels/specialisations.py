"""Every way the engine calls the Triton kernels: all that decides their machine code."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import kernels.boundary_ce.launch as boundary
import kernels.confusion.launch as counting
import kernels.crop_resize.launch as cropping
import kernels.tta_accumulate.launch as views

CLASSES = 13


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
    """Those of the kernels that `kernels/FOLDER/launch.py` launches on sm_ARCH: the same on all."""
    ways: dict[str, Callable[[], Iterator[Specialisation]]] = {
        "boundary_ce": _boundary_ce,
        "confusion": _confusion,
        "crop_resize": _crop_resize,
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


def _boundary_ce() -> Iterator[Specialisation]:
    """Channels-last logits, whose stride of 1 Triton makes a constant, and planar ones."""
    from kernels.boundary_ce import triton, triton_ends

    pixels = {"label": "*u8:16", "code": "*u8:16", "count_2K": "*i32:16", "ticket": "*i32:16"}
    floats = ("class_weight", "weight_T", "slope", "numerator", "loss", "grad_loss")
    types = pixels | dict.fromkeys(floats, "*fp32:16") | {"factor": "*fp64:16", "boundary": "fp64"}
    for ignored_edges in (False, True):
        constants = boundary.encode_constants(CLASSES, ignored_edges)
        yield _specialise(triton_ends.boundary_ce_encode, types, constants, boundary.ENCODE)
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
    constants = boundary.sweep_constants(CLASSES, True, True)
    planar = types | {"logits": "*fp32:16"}
    yield _specialise(triton.boundary_ce_sweep, planar, constants, boundary.SWEEP)
    for written in ("*fp32:16", "*bf16:16"):
        constants = boundary.finish_constants(CLASSES) | {"stride_c": 1}
        arrays = types | {"gradient": written}
        yield _specialise(triton_ends.boundary_ce_finish, arrays, constants, boundary.FINISH)


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


def _tta_accumulate() -> Iterator[Specialisation]:
    """Totals come from `zero_total` and logits are channels-last: strides of 1, made constants."""
    from kernels.tta_accumulate.triton import add_view

    temperatures, yes_no = (0.7, 0.8, 0.9, 1.0), (True, False)
    for logits, resized, align_corners in product(("*fp32", "*bf16"), yes_no, yes_no):
        constants = views.tile_constants(temperatures, CLASSES, resized, align_corners)
        constants |= {"total_c": 1, "logits_c": 1}
        types = {"total": "*fp32", "logits": logits}
        yield _specialise(add_view, types, constants, views.LAUNCH)
