"""What augmentation does to crops behind the sources: colours turned, depth hidden.

All sources do it by these functions, on their device, and none where `Draws` ask for nothing.

B: rows of a batch. C: channels. H W: pixels of a crop.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.batch import Draws
from engine.data.inputs import InputSpec, Normalisation
from kernels.recolour import recolour as mix_colours

_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""Luma and two of chroma, from RGB: FCC 1953."""


def recolour(
    image_BCHW: Tensor, draws: Draws, hw_B2: NDArray[np.int64], rgb: Normalisation
) -> None:
    """Turn the hue and scale the saturation of RGB, in place, where draws ask for it.

    With v in 0..255 it becomes clip(M v, 0, 255): chroma is turned and scaled, luma kept but for
    the clipping. What lies outside of a frame stays 0.

    Args:
        image_BCHW: float32, channels-last: normalised RGB, lit and clipped, and what follows it.
        draws: what the crops were made by.
        hw_B2: height and width of their frames.
        rgb: what the RGB is normalised by.
    """
    if draws.colour is None:
        return
    from engine.data.file_source import sample_positions

    inside = [
        (at >= 0) & (at < length_B1)
        for at, length_B1 in zip(
            sample_positions(draws, (image_BCHW.shape[2], image_BCHW.shape[3])),
            (hw_B2[:, :1], hw_B2[:, 1:]),
            strict=True,
        )
    ]
    inside[1][draws.flip] = inside[1][draws.flip, ::-1]
    mean_3, std_3 = np.array(rgb.mean), np.array(rgb.std)
    region_B4 = np.array(
        [[*_ends(rows), *_ends(columns)] for rows, columns in zip(*inside, strict=True)], np.int64
    ).reshape(-1, 4)
    mix_B43 = np.zeros((len(region_B4), 4, 3))
    for row, (turn, gain) in enumerate(draws.colour.tolist()):
        if turn == 0 and gain == 1:
            region_B4[row] = 0
        # On normalised values M is affine: v = std x + mean.
        mixed_33 = mixing(turn, gain)
        mix_B43[row, :3] = (mixed_33 * std_3 / std_3[:, None]).T
        mix_B43[row, 3] = (mixed_33 @ mean_3 - mean_3) / std_3
    numbers = (mix_B43, np.stack([-mean_3, 255 - mean_3]) / std_3)
    single = (torch.from_numpy(part.astype(np.float32)) for part in numbers)
    mix_colours(image_BCHW, torch.from_numpy(region_B4), *single)


def _ends(inside_n: NDArray[np.bool_]) -> tuple[int, int]:
    """The first place that is inside, and one past the last."""
    places = np.flatnonzero(inside_n)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def mixing(turn: float, gain: float) -> NDArray[np.float64]:
    """(3, 3) what RGB is multiplied by to turn its hue (1: a full circle) and scale its chroma."""
    cos, sin = gain * np.cos(2 * np.pi * turn), gain * np.sin(2 * np.pi * turn)
    turned = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    mixed_33: NDArray[np.float64] = np.linalg.inv(_TO_YIQ) @ turned @ _TO_YIQ
    return mixed_33


def hide_depth(image_BCHW: Tensor, depth_BHW: Tensor, draws: Draws, spec: InputSpec) -> Tensor:
    """Make all channels behind RGB 0, in place, where draws say so; as if all depth were missing.

    Returns:
        (B, H, W) metres that the network may see: `depth_BHW` itself where nothing is hidden.
    """
    if draws.hidden is None or not spec.has_depth or not draws.hidden.any():
        return depth_BHW
    seen_BHW = depth_BHW.clone()
    for row in np.flatnonzero(draws.hidden).tolist():
        image_BCHW[row, 3:].zero_()
        seen_BHW[row].zero_()
    return seen_BHW
