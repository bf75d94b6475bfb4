"""Every way the engine calls the Triton kernels: all that decides their machine code."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import kernels.boundary_ce.launch as boundary
import kernels.confusion.launch as counting
import kernels.crop_resize.launch as cropping
import kernels.tta_accumulate.launch as views
from benchmarks.lowering import Specialisation

CLASSES = 13


def specialisations(folder: str, arch: int) -> list[Specialisation]:
    """Those of the kernels that `kernels/FOLDER/launch.py` launches on sm_ARCH."""
    ways: dict[str, Callable[[], Iterator[Specialisation]]] = {
        "boundary_ce": partial(_boundary_ce, arch),
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


def _tta_accumulate() -> Iterator[Specialisation]:
    """Totals come from `zero_total` and logits are channels-last: strides of 1, made constants."""
    from kernels.tta_accumulate.triton import add_view

    temperatures, yes_no = (0.7, 0.8, 0.9, 1.0), (True, False)
    for logits, resized, align_corners in product(("*fp32", "*bf16"), yes_no, yes_no):
        constants = views.tile_constants(temperatures, CLASSES, resized, align_corners)
        constants |= {"total_c": 1, "logits_c": 1}
        types = {"total": "*fp32", "logits": logits}
        yield _specialise(add_view, types, constants, views.LAUNCH)
