"""`crop_resize` by device: Numba on the CPU, Triton on CUDA, one registered operation for both.

Axes: see reference.py.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.crop_resize import cpu
from kernels.crop_resize.reference import Crops, Frames, check_arguments, check_samples
from kernels.threads import cpu_threads

BLOCK = 256
# Positions are rounded as everywhere: where a multiplication and an addition became one operation,
# the nearest pixel of a position between two would be the other one.
LAUNCH = {"num_warps": 2, "enable_fp_fusion": False}
"""Pixels a program and its warps: four values a thread, so 128 bits a store of float32."""

_CROP_TYPES = (torch.float32, torch.bfloat16)


def crop_resize(
    frames: Frames,
    draw_B8: Tensor,
    crop_hw: tuple[int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    depth_range_m: tuple[float, float],
    in_channels: int,
    dtype: torch.dtype = torch.float32,
) -> Crops:
    """`reference.crop_resize` in one pass; does not wait for a GPU.

    Raises:
        ValueError: as the reference, and for any other `dtype` than float32 and bfloat16.
    """
    check_arguments(frames, draw_B8, crop_hw, mean, std, depth_range_m, in_channels)
    if dtype not in _CROP_TYPES:
        raise ValueError(f"crops are {' or '.join(map(str, _CROP_TYPES))}, not {dtype}")
    crop_BhwC, depth_Bhw, label_Bhw = _crop_resize(
        *frames, draw_B8, *crop_hw, list(mean), list(std), *depth_range_m, in_channels, dtype
    )
    return Crops(crop_BhwC.permute(0, 3, 1, 2), depth_Bhw, label_Bhw)


def uses_triton(tensor: Tensor) -> bool:
    """Whether the Triton kernel works on this tensor."""
    return tensor.is_cuda


def specialisations() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """The kernel as it is launched: (kernel, signature, constants, warps) for each machine code.

    The engine crops to multiples of 32 pixels, hence the multiples of 16.
    """
    for dtype in _CROP_TYPES:
        for in_channels, has_depth, has_label in (
            (3, True, True),
            (4, True, True),
            (3, False, True),
            (4, True, False),
        ):
            yield _specialisation(dtype, in_channels, has_depth, has_label)


def _specialisation(
    dtype: torch.dtype, in_channels: int, has_depth: bool, has_label: bool
) -> tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]:
    from kernels.crop_resize.triton import crop_rows

    factors = [f"{kind}_{colour}" for kind in ("scale", "shift") for colour in "rgb"]
    signature = {
        "image": "*u8:16",
        "depth": "*u16:16",
        "label": "*u8:16",
        "offset_N": "*i64:16",
        "hw_N2": "*i64:16",
        "draw_B8": "*fp64:16",
        "crop_BhwC": {torch.float32: "*fp32:16", torch.bfloat16: "*bf16:16"}[dtype],
        "depth_Bhw": "*fp32:16",
        "label_Bhw": "*u8:16",
        "h": "i32:16",
        "w": "i32:16",
        **dict.fromkeys([*factors, "nearest_m", "farthest_m"], "fp32"),
    }
    constants: dict[str, Any] = {"C": in_channels, "BLOCK": BLOCK}
    for name, there in (("depth", has_depth), ("label", has_label)):
        if not there:
            constants[name] = None
            del signature[name]
    return crop_rows, signature, constants, LAUNCH


@torch.library.custom_op("roomsmith::crop_resize", mutates_args=())
def _crop_resize(
    image_P3: Tensor,
    depth_P: Tensor | None,
    label_P: Tensor | None,
    offset_N: Tensor,
    hw_N2: Tensor,
    draw_B8: Tensor,
    h: int,
    w: int,
    mean: list[float],
    std: list[float],
    nearest_m: float,
    farthest_m: float,
    in_channels: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, h, w, C) of `dtype`, (B, h, w) float32 and (B, h, w) uint8, all contiguous."""
    check_samples(draw_B8, len(hw_N2))
    outputs = _new_outputs(image_P3, draw_B8, h, w, in_channels, dtype)
    frames = Frames(image_P3, depth_P, label_P, offset_N, hw_N2)
    scale = [1 / deviation for deviation in std]
    shift = [-middle / deviation for middle, deviation in zip(mean, std, strict=True)]
    work = _crop_triton if uses_triton(image_P3) else _crop_numba
    if len(draw_B8):
        work(frames, draw_B8, scale, shift, (nearest_m, farthest_m), outputs)
    return outputs


@_crop_resize.register_fake
def _(
    image_P3: Tensor,
    depth_P: Tensor | None,  # noqa: ARG001
    label_P: Tensor | None,  # noqa: ARG001
    offset_N: Tensor,  # noqa: ARG001
    hw_N2: Tensor,  # noqa: ARG001
    draw_B8: Tensor,
    h: int,
    w: int,
    mean: list[float],  # noqa: ARG001
    std: list[float],  # noqa: ARG001
    nearest_m: float,  # noqa: ARG001
    farthest_m: float,  # noqa: ARG001
    in_channels: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    return _new_outputs(image_P3, draw_B8, h, w, in_channels, dtype)


def _new_outputs(
    image_P3: Tensor, draw_B8: Tensor, h: int, w: int, in_channels: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    rows = draw_B8.shape[0]
    return (
        image_P3.new_empty((rows, h, w, in_channels), dtype=dtype),
        image_P3.new_empty((rows, h, w), dtype=torch.float32),
        image_P3.new_empty((rows, h, w), dtype=torch.uint8),
    )


def _crop_triton(
    frames: Frames,
    draw_B8: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    depth_range_m: tuple[float, float],
    outputs: tuple[Tensor, Tensor, Tensor],
) -> None:
    crop_BhwC = outputs[0]
    rows, h, w, in_channels = crop_BhwC.shape
    kernel, signature, constants, launch = _specialisation(
        crop_BhwC.dtype, in_channels, frames.depth_P is not None, frames.label_P is not None
    )
    values = (*frames, draw_B8.contiguous(), *outputs, h, w, *scale, *shift, *depth_range_m)
    arguments = dict(zip(kernel.arg_names, values, strict=False))
    kernel[(-(-w // BLOCK), h, rows)](
        **{name: arguments[name] for name in signature}, **constants, **launch
    )


def _crop_numba(
    frames: Frames,
    draw_B8: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    depth_range_m: tuple[float, float],
    outputs: tuple[Tensor, Tensor, Tensor],
) -> None:
    crop_BhwC, depth_Bhw, label_Bhw = outputs
    crop, (_, h, w, C) = crop_BhwC.flatten(), crop_BhwC.shape
    # NumPy has no bfloat16: the kernel writes its bits. What is not there is an empty array.
    rounds = crop.dtype == torch.bfloat16
    with cpu_threads(torch.get_num_threads()):
        cpu.crop_resize(
            frames.image_P3.flatten().numpy(),
            _or_empty(frames.depth_P, torch.uint16).numpy(),
            _or_empty(frames.label_P, torch.uint8).numpy(),
            frames.offset_N.numpy(),
            frames.hw_N2.numpy(),
            draw_B8.contiguous().numpy(),
            np.array(scale),
            np.array(shift),
            depth_range_m,
            (h, w, C),
            _or_empty(None if rounds else crop, torch.float32).numpy(),
            _or_empty(crop.view(torch.uint16) if rounds else None, torch.uint16).numpy(),
            depth_Bhw.flatten().numpy(),
            label_Bhw.flatten().numpy(),
        )


def _or_empty(buffer: Tensor | None, dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype) if buffer is None else buffer
