"""Channels of a frame's surfaces: where they face, how high they are, what they are to gravity.

They are made of the whole frame, once, and a crop takes the nearest of them as it takes depth. Of a
crop alone they would be others at each zoom, gravity and floor would not be seen in most, and each
step would fit its planes anew; a frame takes some 10 ms of one core.

B: rows of a batch. C: channels. H W: pixels of a crop, or of a frame. h w: cells of a frame. K:
channels of its surfaces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from engine.config import DataConfig
from engine.data.batch import Draws
from kernels import gpu
from kernels.crop_resize import Frames
from kernels.surface import append_cells, surface_normals

_CHANNELS = {"normals": 3, "hha": 2}
_MIRRORED = {"normals": (-1.0, 1.0, 1.0), "hha": (1.0, 1.0)}

_SIDE = 320
"""Cells on a frame's longer side, about: planes are fitted to 13 of them, 12 degrees of NYUv2."""

_UNIT, _BYTES = 127.0, 4
"""A channel's 1 as int8; bytes of a cell."""

_TOLERATED = ((45.0, 5), (15.0, 5))
"""Degrees from gravity, or a right angle to it, at which normals count, and for how many turns."""

_HELD_UPRIGHT = 0.01
"""What the camera's own up counts, as a share of the normals: it decides where they do not."""

_CAMERA_M = 1.3
"""How high a camera is held, where no floor is seen."""
_FLOOR_M, _FLOOR_PERCENT = 0.9, 1
"""How far below the camera a floor is at least; which percentile of the heights is the floor."""
_HIGHEST_M = 3.0
"""Height above the floor that is 1."""


@dataclass(frozen=True)
class Surface:
    """What is made of a frame's depth map: `kind` is "normals" or "hha".

    Normals are x (right), y (down) and z (ahead) in the camera's frame, facing it. "hha", which
    with inverse depth is HHA (Gupta et al., ECCV 2014): the height above the floor, 0..1 for 0..3
    m, and the cosine of the angle between normal and up: 1 floor, 0 wall, -1 ceiling.
    """

    kind: str
    horizontal_fov: float
    """Degrees that a frame's width takes, its optical axis in the middle."""
    metres_a_unit: float
    """Of the depth maps."""

    @classmethod
    def of(cls, kind: str, data: DataConfig) -> "Surface":
        """That of a kind, of a dataset's camera."""
        return cls(kind, data.fov, data.depth_scale)

    @property
    def channels(self) -> int:
        """How many they are, K."""
        return _CHANNELS[self.kind]

    @property
    def mirrored(self) -> tuple[float, ...]:
        """Factors of the channels in a mirror: a normal's x changes its sign."""
        return _MIRRORED[self.kind]

    def cells(self, depth_HW: NDArray[np.uint16]) -> NDArray[np.int32]:
        """(h, w) of a frame, four int8 a cell: the K channels in 127ths, then zeros.

        A cell is a square of pixels, `cell_side` of them a side. Where its depth is missing, or
        nothing is beside it, all are 0.
        """
        metres_hw, normal_hw3, focal = self.fitted(depth_HW)
        if self.kind == "normals":
            return _packed(normal_hw3)
        up_3 = upwards(normal_hw3)
        height_hw = _height(metres_hw, up_3, focal)
        cosine_hw = normal_hw3 @ up_3.astype(np.float32)
        return _packed(np.stack([height_hw / np.float32(_HIGHEST_M), cosine_hw], axis=-1))

    def fitted(
        self, depth_HW: NDArray[np.uint16]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        """Depth (h, w) of a frame's cells in metres, normals (h, w, 3), focal length in cells."""
        side, width = cell_side(depth_HW.shape), depth_HW.shape[1]
        depth_hw = depth_HW[side // 2 :: side, side // 2 :: side]
        short = [-(-n // side) - m for n, m in zip(depth_HW.shape, depth_hw.shape, strict=True)]
        depth_hw = np.pad(depth_hw, [(0, more) for more in short], mode="edge")
        metres_hw = depth_hw.astype(np.float32) * np.float32(self.metres_a_unit)
        inverse_hw = np.divide(1, metres_hw, out=np.zeros_like(metres_hw), where=metres_hw > 0)
        focal = width / side / 2 / math.tan(math.radians(self.horizontal_fov) / 2)
        return metres_hw, surface_normals(inverse_hw, 1 / focal), focal


def cell_side(hw: tuple[int, ...]) -> int:
    """Pixels that a side of a cell takes in frames of a size."""
    return max(1, round(max(hw) / _SIDE))


def cells_bytes(hw: tuple[int, ...]) -> int:
    """Bytes of `Surface.cells` of a frame of a size, of whatever kind."""
    return _BYTES * math.prod(-(-n // cell_side(hw)) for n in hw)


def upwards(normal_hw3: NDArray[np.float32]) -> NDArray[np.float64]:
    """The direction against gravity in the camera's frame, a unit vector, by a frame's normals.

    From the camera's own up on: the direction to which normals are most nearly parallel or at right
    angles, among those that are either within 45, then 15 degrees (Gupta et al., CVPR 2013). Some
    tilt of the camera, to about 45 degrees, is found; one that lies on its side is not.
    """
    normal_N3 = normal_hw3[::4, ::4].reshape(-1, 3)
    normal_N3 = normal_N3[(normal_N3 != 0).any(axis=1)].astype(np.float64)
    up_3 = np.array([0.0, -1.0, 0.0])
    for degrees, turns in _TOLERATED:
        near, far = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        for _ in range(turns):
            cosine_N = np.abs(normal_N3 @ up_3)
            weight_N = (cosine_N < far).astype(np.float64) - (cosine_N > near)
            if not weight_N.any():
                break
            scatter_33 = (normal_N3 * weight_N[:, None]).T @ normal_N3
            # One wall alone leaves all directions along it.
            scatter_33[1, 1] -= _HELD_UPRIGHT * np.abs(weight_N).sum()
            _, vectors = np.linalg.eigh(scatter_33)
            # Of the smallest eigenvalue; its sign is free.
            up_3 = vectors[:, 0] * (1 if vectors[:, 0] @ up_3 >= 0 else -1)
    return up_3


def _height(
    metres_hw: NDArray[np.float32], up_3: NDArray[np.float64], focal: float
) -> NDArray[np.float32]:
    """(h, w) metres above the floor, 0 where the depth is missing."""
    v_h, u_w = ((np.arange(n) + 0.5 - n / 2) / focal for n in metres_hw.shape)
    slope_hw = up_3[0] * u_w + (up_3[1] * v_h + up_3[2])[:, None]
    height_hw = metres_hw * slope_hw.astype(np.float32)
    known_hw = metres_hw > 0
    floor = np.percentile(height_hw[known_hw], _FLOOR_PERCENT) if known_hw.any() else 0.0
    floor = floor if floor < -_FLOOR_M else -_CAMERA_M
    above_hw: NDArray[np.float32] = height_hw - np.float32(floor)
    return np.where(known_hw, above_hw, np.float32(0))


def _packed(part_hwK: NDArray[np.float32]) -> NDArray[np.int32]:
    cell_hw4 = np.zeros((*part_hwK.shape[:2], _BYTES), np.int8)
    cell_hw4[..., : part_hwK.shape[2]] = np.rint(part_hwK.clip(-1, 1) * _UNIT)
    return cell_hw4.view(np.int32)[..., 0]


def append_surface(
    image_BCHW: Tensor,
    depth_BHW: Tensor,
    cells: Sequence[Tensor],
    draws: Draws,
    hw_B2: NDArray[np.int64],
    surface: Surface,
) -> Tensor:
    """The network's input with the K channels behind it, 0 where the depth is missing or outside.

    Args:
        image_BCHW: float32, normalised RGB and inverse depth.
        depth_BHW: metres, 0 = missing or outside.
        cells: `Surface.cells` of each row's frame, on the image's device.
        draws: what the crops were made by.
        hw_B2: height and width of the frames.
        surface: what the cells are.

    Returns:
        (B, C + K, H, W) float32, channels-last, new.
    """
    from engine.data.file_source import sample_positions

    rows_BH, columns_BW = sample_positions(draws, (image_BCHW.shape[2], image_BCHW.shape[3]))
    columns_BW = np.where(draws.flip[:, None], columns_BW[:, ::-1], columns_BW)
    side_B1 = np.array([cell_side((*hw,)) for hw in hw_B2.tolist()], np.int64).reshape(-1, 1)
    rows, columns = (
        torch.from_numpy(np.floor(at).astype(np.int64).clip(0, length_B1 - 1) // side_B1)
        for at, length_B1 in ((rows_BH, hw_B2[:, :1]), (columns_BW, hw_B2[:, 1:]))
    )
    sign_BK = np.where(draws.flip[:, None], surface.mirrored, 1.0).astype(np.float32)
    return append_cells(image_BCHW, depth_BHW, cells, rows, columns, torch.from_numpy(sign_BK))


_KNOWN = WeakIdKeyDictionary()
"""By the depth of some frames, as long as that is kept: the cells of each, on its device."""


def known_cells(frames: Frames, index: NDArray[np.int64], surface: Surface) -> list[Tensor]:
    """`Surface.cells` of some decoded frames, on their device.

    Those of a frame that is asked for the first time are made on the CPU, which waits for a GPU.
    """
    assert frames.depth_P is not None, "networks that see surfaces see depth"
    if frames.depth_P not in _KNOWN:
        _KNOWN[frames.depth_P] = {}
    known: dict[tuple[Surface, int], Tensor] = _KNOWN[frames.depth_P]
    for sample in index.tolist():
        if (surface, sample) not in known:
            first, (height, width) = int(frames.offset_N[sample]), frames.hw_N2[sample].tolist()
            depth_P = frames.depth_P[first : first + height * width].cpu()
            cells_hw = torch.from_numpy(surface.cells(depth_P.view(height, width).numpy()))
            known[surface, sample] = gpu.upload(cells_hw, frames.depth_P.device)
    return [known[surface, sample] for sample in index.tolist()]


def mirror_image(image_BCHW: Tensor, surface: Surface) -> Tensor:
    """Input that ends with the K channels as a mirror shows it, in new memory."""
    flipped_BCHW = image_BCHW.flip(-1)
    for channel, sign in enumerate(surface.mirrored, image_BCHW.shape[1] - surface.channels):
        if sign < 0:
            flipped_BCHW[:, channel].neg_()
    return flipped_BCHW
