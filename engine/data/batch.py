"""What a training step gets, and the last steps towards it that all sources share.

B: rows of a batch. C: channels. H W: pixels of the crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine import nyuv2
from engine.data.augment import Draws, sample_positions
from engine.data.normalisation import Normalisation
from engine.frames.index import Sample


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input and targets, on the device that the source was made for."""

    image_BCHW: Tensor
    """(B, 3 or 4, H, W) float32, channels-last: normalised RGB (and inverse depth)."""
    depth_BHW: Tensor
    """(B, H, W) float32 metres as stored, 0 = missing; all 0 if the dataset has no depth."""
    label_BHW: Tensor
    """(B, H, W) uint8, 255 = ignore; all 255 if the samples have no labels."""
    index: NDArray[np.int64]
    """(B,) which samples they are."""

    def parts(self, count: int) -> list["Batch"]:
        """At most `count` batches of (nearly) equal size, in order, that share its memory."""
        size = -(-len(self.index) // count)
        starts = range(0, len(self.index), size)
        return [
            Batch(
                self.image_BCHW[start : start + size],
                self.depth_BHW[start : start + size],
                self.label_BHW[start : start + size],
                self.index[start : start + size],
            )
            for start in starts
        ]


def network_input(
    image_BCHW: Tensor, depth_BHW: Tensor | None, normalisation: Normalisation, in_channels: int
) -> Tensor:
    """Normalise RGB and, for four channels, append the inverse depth.

    With d the depth clipped to [0.71, 10] m, the fourth channel is
    (1/d - 1/10) / (1/0.71 - 1/10): 1 near, 0 far; a missing depth is 0 as well.

    Args:
        image_BCHW: (B, 3, H, W) float32 in 0..255.
        depth_BHW: (B, H, W) float32 metres, 0 = missing; may be None for three channels.
        normalisation: of the encoder.
        in_channels: 3 or 4.

    Returns:
        (B, in_channels, H, W) float32, channels-last, on the image's device; no host
        synchronisation.

    Raises:
        ValueError: `in_channels` is neither 3 nor 4, or 4 channels come without depth.
    """
    if in_channels not in (3, 4):
        raise ValueError(f"a network takes 3 (RGB) or 4 (RGB-D) channels, got {in_channels}")
    # Filled on the device one by one: torch.tensor(...).to(device) would stop the host.
    scale_C = [1.0 / deviation for deviation in normalisation.std]
    offset_C = [-m / s for m, s in zip(normalisation.mean, normalisation.std, strict=True)]
    channels = [
        image_BCHW[:, channel] * scale_C[channel] + offset_C[channel] for channel in range(3)
    ]
    if in_channels == 4:
        if depth_BHW is None:
            raise ValueError("4 input channels need depth, got none; give depth maps or use 3")
        channels.append(_inverse_depth(depth_BHW))
    return torch.stack(channels, dim=-1).permute(0, 3, 1, 2)


def finish(
    image_BCHW: Tensor,
    depth_BHW: Tensor | None,
    label_BHW: Tensor | None,
    *,
    draws: Draws,
    samples: Sequence[Sample],
    normalisation: Normalisation,
    in_channels: int,
) -> Batch:
    """Turn resampled crops into a batch: light, fill outside the frame, normalise.

    A pixel is outside if its sample position is outside [0, H) x [0, W) of its frame. There the
    network's input is 0 in every channel, the depth missing and the label 255, whatever the
    crops hold.

    Args:
        image_BCHW: (B, 3, H, W) float32 in 0..255, mirrored already, on the target device.
        depth_BHW: (B, H, W) float32 metres, 0 = missing; None = all missing.
        label_BHW: (B, H, W) uint8; None = all ignored.
        draws: B rows that the crops were made by.
        samples: of the whole split; their sizes say what is outside.
        normalisation: of the encoder.
        in_channels: 3 or 4.

    Returns:
        The batch, in new tensors: the arguments may be overwritten afterwards.
    """
    device = image_BCHW.device
    rows, height, width = len(draws), image_BCHW.shape[2], image_BCHW.shape[3]
    inside_BHW = _inside(draws, samples, (height, width)).to(device, non_blocking=True)
    if depth_BHW is None:
        depth_BHW = torch.zeros((rows, height, width), device=device)
    if label_BHW is None:
        label_BHW = torch.full(
            (rows, height, width), nyuv2.IGNORE_INDEX, dtype=torch.uint8, device=device
        )
    gain_B111, shift_B111 = (
        torch.from_numpy(numbers).to(device, non_blocking=True)[:, None, None, None]
        for numbers in (draws.gain, 255 * draws.shift)
    )
    lit_BCHW = (image_BCHW * gain_B111 + shift_B111).clamp(0, 255)
    depth_BHW = torch.where(inside_BHW, depth_BHW, 0.0)
    input_BCHW = network_input(lit_BCHW, depth_BHW, normalisation, in_channels)
    return Batch(
        torch.where(inside_BHW[:, None], input_BCHW, 0.0).contiguous(
            memory_format=torch.channels_last
        ),
        depth_BHW,
        torch.where(inside_BHW, label_BHW, nyuv2.IGNORE_INDEX),
        draws.index,
    )


def _inverse_depth(depth_BHW: Tensor) -> Tensor:
    far, near = 1 / nyuv2.DEPTH_MAX_M, 1 / nyuv2.DEPTH_MIN_M
    inverse_BHW = depth_BHW.clamp(nyuv2.DEPTH_MIN_M, nyuv2.DEPTH_MAX_M).reciprocal()
    return torch.where(depth_BHW > 0, (inverse_BHW - far) / (near - far), 0.0)


def _inside(draws: Draws, samples: Sequence[Sample], crop_hw: tuple[int, int]) -> Tensor:
    """(B, H, W) bool on the CPU, mirrored as the crops are."""
    hw = np.array([samples[sample].hw for sample in draws.index]).reshape(-1, 2)
    rows, columns = sample_positions(draws, crop_hw)
    in_rows = (rows >= 0) & (rows < hw[:, :1])
    in_columns = (columns >= 0) & (columns < hw[:, 1:])
    in_columns[draws.flip] = in_columns[draws.flip, ::-1]
    return torch.from_numpy(in_rows[:, :, None] & in_columns[:, None, :])
