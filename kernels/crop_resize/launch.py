"""How the Triton kernel of this folder is launched: grid and constants.

Axes: see reference.py.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from kernels.crop_resize.reference import Crops, Frames
from kernels.gpu import Specialisation, specialise

BLOCK = 256
# Positions are rounded as everywhere: where a multiplication and an addition became one operation,
# the nearest pixel of a position between two would be the other one.
LAUNCH = {"num_warps": 2, "enable_fp_fusion": False}
"""Pixels a program and its warps: four values a thread, so 128 bits a store of float32."""


def crop_resize(frames: Frames, draw_B8: Tensor, numbers: Sequence[float], outputs: Crops) -> None:
    """Write crops, channels last; see `op._crop_resize`."""
    from kernels.crop_resize.triton import crop_rows

    rows, h, w, channels = outputs.image_BChw.shape
    arguments = (*frames, draw_B8.contiguous(), *outputs, h, w, *numbers)
    grid = (-(-w // BLOCK), h, rows)
    crop_rows[grid](*arguments, C=channels, BLOCK=BLOCK, **LAUNCH)


def specialisations() -> Iterator[Specialisation]:
    """Yield every way the engine calls it: it crops to multiples of 32 pixels."""
    from kernels.crop_resize.triton import crop_rows

    frames = ("*u8:16", "*u16:16", "*u8:16", "*i64:16", "*i64:16")
    kinds = ((3, True, True), (4, True, True), (3, False, True), (4, True, False))
    for crop in ("*fp32:16", "*bf16:16"):
        all_types = (
            *frames,
            "*fp64:16",
            crop,
            "*fp32:16",
            "*u8:16",
            *["i32:16"] * 2,
            *["fp32"] * 8,
        )
        types = dict(zip(crop_rows.arg_names, all_types, strict=False))
        for channels, has_depth, has_label in kinds:
            missing = {"depth": None} if not has_depth else {}
            missing |= {"label": None} if not has_label else {}
            constants = {"C": channels, "BLOCK": BLOCK, **missing}
            yield specialise(crop_rows, types, constants, LAUNCH)
