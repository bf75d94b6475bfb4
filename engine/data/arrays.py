"""Frames that are in memory already, as NumPy arrays: held to what a file would be held to.

B: frames of a batch. H W: pixels of a frame.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.data.batch import FrameBatch
from engine.data.inputs import upload
from engine.frames.decode import Frame
from engine.frames.reading import Reading
from engine.nyuv2 import DEPTH_MAX_M
from kernels.crop_resize import Frames

_MOST = np.iinfo(np.uint16).max


def array_frame(
    image_HW3: NDArray[Any], depth_HW: NDArray[Any] | None, reading: Reading, *, need_depth: bool
) -> Frame:
    """A frame of arrays, not copied where they are as they are needed.

    Args:
        image_HW3: (H, W, 3) uint8 RGB, upright.
        depth_HW: (H, W) uint16 in units of `reading.depth_scale` metres, of which the values
            `reading.depth_invalid` are missing; or floats, metres, of which NaN, infinities and
            what is not above 0 are missing. Metres are rounded to units; what lies beyond the
            farthest depth that a network tells apart, 10 m, may be brought nearer.
        reading: of the run that is to look at it: `Reading.of(config.data)`.
        need_depth: whether that run's networks see depth; without, `depth_HW` is not looked at.

    Raises:
        ValueError: a shape or type is another, depth is missing, or metres are more than units
            of the run can say; the message says what came and what is needed.
    """
    shape = image_HW3.shape
    if image_HW3.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not image_HW3.size:
        needed = "(H, W, 3) uint8 RGB with H, W >= 1"
        raise ValueError(f"image is {shape} {image_HW3.dtype}; needed: {needed}")
    image_HW3 = np.ascontiguousarray(image_HW3)
    if not need_depth:
        return Frame(image_HW3, None, None)
    if depth_HW is None:
        needed = "give a map of the image's size, uint16 in the run's unit or metres as floats"
        raise ValueError(f"the run's networks see depth, and there is none; {needed}")
    return Frame(image_HW3, _units(depth_HW, image_HW3.shape[:2], reading), None)


def frame_batch(frames: Sequence[Frame], device: torch.device) -> FrameBatch:
    """B >= 1 frames of one size, all with depth or none, on a device; labels are left out."""
    hw = frames[0].image_HW3.shape[0], frames[0].image_HW3.shape[1]
    pixels = hw[0] * hw[1]
    image_P3 = _side_by_side([frame.image_HW3.reshape(-1, 3) for frame in frames])
    depths = [frame.depth_HW.reshape(-1) for frame in frames if frame.depth_HW is not None]
    held = Frames(
        upload(image_P3, device),
        upload(_side_by_side(depths), device) if depths else None,
        None,
        torch.arange(len(frames)) * pixels,
        torch.tensor([hw] * len(frames)),
    )
    return FrameBatch(0, hw, held, np.arange(len(frames)), None)


def _units(depth_HW: NDArray[Any], hw: Sequence[int], reading: Reading) -> NDArray[np.uint16]:
    needed = f"{(*hw,)} as the image, uint16 in the run's unit or metres as floats"
    if depth_HW.shape != (*hw,) or not (
        depth_HW.dtype == np.uint16 or np.issubdtype(depth_HW.dtype, np.floating)
    ):
        raise ValueError(f"depth is {depth_HW.shape} {depth_HW.dtype}; needed: {needed}")
    if depth_HW.dtype == np.uint16:
        return reading.depth(np.ascontiguousarray(depth_HW))
    known_HW = np.isfinite(depth_HW) & (depth_HW > 0)
    unit_HW = np.where(known_HW, depth_HW, 0).astype(np.float64) / reading.depth_scale
    most_m = _MOST * reading.depth_scale
    if most_m < DEPTH_MAX_M and unit_HW.max(initial=0) > _MOST:
        raise ValueError(
            f"depth reaches {unit_HW.max() * reading.depth_scale:.3g} m; needed: at most "
            f"{most_m:.3g} m, as far as the run's unit (data.depth_scale = "
            f"{reading.depth_scale:g}) goes: is it in metres?"
        )
    # What is nearer than half a unit is near, not missing.
    rounded_HW = np.clip(np.rint(unit_HW), 1, _MOST).astype(np.uint16)
    return np.where(known_HW, rounded_HW, np.uint16(0))


def _side_by_side(parts: Sequence[NDArray[Any]]) -> torch.Tensor:
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
    # torch warns of memory that is read-only.
    return torch.from_numpy(joined if joined.flags.writeable else joined.copy())
