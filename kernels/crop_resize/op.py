"""`crop_resize` by device: Numba on the CPU, Triton on CUDA, one registered operation for both.

Axes: see reference.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import gpu
from kernels.crop_resize import cpu, launch
from kernels.crop_resize.reference import Crops, Encoding, Frames, check_arguments, check_samples


def crop_resize(
    frames: Frames,
    draw_B8: Tensor,
    crop_hw: tuple[int, int],
    encoding: Encoding,
    dtype: torch.dtype = torch.float32,
) -> Crops:
    """`reference.crop_resize` in one pass that waits for no GPU; raises as that does.

    A GPU is sent tables of where each row and column of the crops reads, about 20 KB a crop. Any
    other `dtype` than float32 and bfloat16 is a ValueError too.
    """
    check_arguments(frames, draw_B8, crop_hw, encoding)
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"crops are torch.float32 or torch.bfloat16, not {dtype}")
    mean, std, depth_range_m, in_channels = encoding
    scale = [1 / deviation for deviation in std]
    shift = [-middle / deviation for middle, deviation in zip(mean, std, strict=True)]
    numbers, size_hwC = [*scale, *shift, *depth_range_m], [*crop_hw, in_channels]
    crop_BhwC, *maps = _crop_resize(list(frames), draw_B8, size_hwC, numbers, dtype)
    return Crops(crop_BhwC.permute(0, 3, 1, 2), *maps)


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
    outputs = _new_outputs(frames, draw_B8, size_hwC, dtype)
    if len(draw_B8):
        crop = launch.crop_resize if gpu.uses_triton(given.image_P3) else cpu.crop_resize
        crop(given, draw_B8, numbers, Crops(*outputs))
    return outputs


def _new_outputs(
    frames: Sequence[Tensor | None], draw_B8: Tensor, size_hwC: Sequence[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    image_P3 = frames[0]
    assert image_P3 is not None
    crop = image_P3.new_empty((draw_B8.shape[0], *size_hwC), dtype=dtype)
    depth, label = (crop.new_empty(crop.shape[:3], dtype=d) for d in (torch.float32, torch.uint8))
    return crop, depth, label


_crop_resize.register_fake(
    lambda frames, draw, size, _, dtype: _new_outputs(frames, draw, size, dtype)
)
