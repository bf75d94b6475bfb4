"""How the Triton kernel of this folder is launched: grid and constants.

Axes: see reference.py.
"""

from collections.abc import Sequence

from torch import Tensor

from kernels.crop_resize.reference import Crops, Frames

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
