"""`crop_resize` by device: Numba on the CPU, Triton on CUDA, one registered operation for both.

Axes: see reference.py.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.crop_resize import cpu
from kernels.crop_resize.reference import Crops, Encoding, Frames, check_arguments, check_samples
from kernels.gpu import uses_triton

BLOCK = 256
# Positions are rounded as everywhere: where a multiplication and an addition became one operation,
# the nearest pixel of a position between two would be the other one.
LAUNCH = {"num_warps": 2, "enable_fp_fusion": False}
"""Pixels a program and its warps: four values a thread, so 128 bits a store of float32."""

_CROP_TYPES = {torch.float32: "*fp32:16", torch.bfloat16: "*bf16:16"}
"""What a crop may hold, and its pointer as Triton's compiler writes it."""


def crop_resize(
    frames: Frames,
    draw_B8: Tensor,
    crop_hw: tuple[int, int],
    encoding: Encoding,
    dtype: torch.dtype = torch.float32,
) -> Crops:
    """`reference.crop_resize` in one pass; does not wait for a GPU.

    Raises:
        ValueError: as the reference, and for any other `dtype` than float32 and bfloat16.
    """
    check_arguments(frames, draw_B8, crop_hw, encoding)
    if dtype not in _CROP_TYPES:
        raise ValueError(f"crops are {' or '.join(map(str, _CROP_TYPES))}, not {dtype}")
    mean, std, depth_range_m, in_channels = encoding
    scale = [1 / deviation for deviation in std]
    shift = [-middle / deviation for middle, deviation in zip(mean, std, strict=True)]
    numbers, size_hwC = [*scale, *shift, *depth_range_m], [*crop_hw, in_channels]
    crop_BhwC, *maps = _crop_resize(list(frames), draw_B8, size_hwC, numbers, dtype)
    return Crops(crop_BhwC.permute(0, 3, 1, 2), *maps)


def specialisations() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """The kernel as it is launched: (kernel, signature, constants, warps) for each machine code.

    The engine crops to multiples of 32 pixels, hence the multiples of 16.
    """
    kinds = ((3, True, True), (4, True, True), (3, False, True), (4, True, False))
    for dtype in _CROP_TYPES:
        for in_channels, has_depth, has_label in kinds:
            yield _specialisation(dtype, in_channels, has_depth, has_label)


def _specialisation(
    dtype: torch.dtype, in_channels: int, has_depth: bool, has_label: bool
) -> tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]:
    from kernels.crop_resize.triton import crop_rows

    frames = ("*u8:16", "*u16:16", "*u8:16", "*i64:16", "*i64:16")
    crops = (_CROP_TYPES[dtype], "*fp32:16", "*u8:16")
    types = (*frames, "*fp64:16", *crops, *["i32:16"] * 2, *["fp32"] * 8)
    signature = dict(zip(crop_rows.arg_names, types, strict=False))
    constants: dict[str, Any] = {"C": in_channels, "BLOCK": BLOCK}
    for name, there in (("depth", has_depth), ("label", has_label)):
        if not there:
            constants[name] = None
            del signature[name]
    return crop_rows, signature, constants, LAUNCH


@torch.library.custom_op("roomsmith::crop_resize", mutates_args=())
def _crop_resize(
    frames: Sequence[Tensor | None],
    draw_B8: Tensor,
    size_hwC: Sequence[int],
    numbers: Sequence[float],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Crops with channels last: (B, h, w, C) of `dtype`, (B, h, w) float32 and uint8, contiguous.

    The numbers: 1 / std of R, G, B; -mean / std; nearest and farthest depth.
    """
    given = Frames(*frames)  # type: ignore[arg-type] # a schema cannot say which may be None
    check_samples(draw_B8, len(given.hw_N2))
    outputs = _new_outputs(draw_B8, size_hwC, dtype)
    work = _crop_triton if uses_triton(draw_B8) else cpu.crop_resize
    if len(draw_B8):
        work(given, draw_B8, numbers, Crops(*outputs))
    return outputs


def _new_outputs(
    draw_B8: Tensor, size_hwC: Sequence[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    rows, (h, w, _) = draw_B8.shape[0], size_hwC
    return (
        draw_B8.new_empty((rows, *size_hwC), dtype=dtype),
        draw_B8.new_empty((rows, h, w), dtype=torch.float32),
        draw_B8.new_empty((rows, h, w), dtype=torch.uint8),
    )


_crop_resize.register_fake(lambda _, draw, size, __, dtype: _new_outputs(draw, size, dtype))


def _crop_triton(frames: Frames, draw_B8: Tensor, numbers: Sequence[float], outputs: Crops) -> None:
    rows, h, w, in_channels = outputs.image_BChw.shape
    has_depth, has_label = frames.depth_P is not None, frames.label_P is not None
    kernel, signature, constants, launch = _specialisation(
        outputs.image_BChw.dtype, in_channels, has_depth, has_label
    )
    values = (*frames, draw_B8.contiguous(), *outputs, h, w, *numbers)
    arguments = dict(zip(kernel.arg_names, values, strict=False))
    given = {name: arguments[name] for name in signature}
    kernel[(-(-w // BLOCK), h, rows)](**given, **constants, **launch)
