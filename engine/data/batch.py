"""From resampled crops to a batch: what the sources that decode files share.

The resident source has all of this in one kernel, `kernels.crop_resize`.

B: rows of a batch. C: channels. H W: pixels of the crop.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine import nyuv2
from engine.data.augment import Draws, sample_positions
from engine.data.inputs import InputSpec, network_input
from engine.data.sources import Batch
from engine.frames.listing import Sample


class RawCrops(NamedTuple):
    """What a source has cut out of its frames, mirrored already, on the target device."""

    image_BCHW: Tensor
    """(B, 3, H, W) float32 in 0..255."""
    depth_BHW: Tensor | None
    """(B, H, W) float32 metres, 0 = missing; None = all missing."""
    label_BHW: Tensor | None
    """(B, H, W) uint8; None = all ignored."""


def finish(crops: RawCrops, draws: Draws, samples: Sequence[Sample], spec: InputSpec) -> Batch:
    """Turn resampled crops into a batch: light, fill outside the frame, normalise.

    A pixel is outside if its sample position is outside [0, H) x [0, W) of its frame. There the
    network's input is 0 in every channel, the depth missing and the label 255, whatever the
    crops hold.

    Args:
        crops: as resampled.
        draws: B rows that they were made by.
        samples: of the whole split; their sizes say what is outside.
        spec: of the network's input.

    Returns:
        The batch, in new tensors: the crops may be overwritten afterwards.
    """
    image_BCHW, depth_BHW, label_BHW = crops
    device, hw = image_BCHW.device, (image_BCHW.shape[2], image_BCHW.shape[3])
    inside_BHW = _inside(draws, samples, hw).to(device, non_blocking=True)
    if depth_BHW is None:
        depth_BHW = torch.zeros((len(draws), *hw), device=device)
    if label_BHW is None:
        label_BHW = torch.full_like(inside_BHW, nyuv2.IGNORE_INDEX, dtype=torch.uint8)
    gain_B111, shift_B111 = (
        torch.from_numpy(numbers).to(device, non_blocking=True)[:, None, None, None]
        for numbers in (draws.gain, 255 * draws.shift)
    )
    lit_BCHW = (image_BCHW * gain_B111 + shift_B111).clamp(0, 255)
    depth_BHW = torch.where(inside_BHW, depth_BHW, 0.0)
    input_BCHW = spec.complete(network_input(lit_BCHW, depth_BHW, spec), depth_BHW)
    return Batch(
        torch.where(inside_BHW[:, None], input_BCHW, 0.0).contiguous(
            memory_format=torch.channels_last
        ),
        depth_BHW,
        torch.where(inside_BHW, label_BHW, nyuv2.IGNORE_INDEX),
        draws.index,
    )


def _inside(draws: Draws, samples: Sequence[Sample], crop_hw: tuple[int, int]) -> Tensor:
    """(B, H, W) bool on the CPU, mirrored as the crops are."""
    hw = np.array([samples[sample].hw for sample in draws.index]).reshape(-1, 2)
    rows, columns = sample_positions(draws, crop_hw)
    in_rows = (rows >= 0) & (rows < hw[:, :1])
    in_columns = (columns >= 0) & (columns < hw[:, 1:])
    in_columns[draws.flip] = in_columns[draws.flip, ::-1]
    return torch.from_numpy(in_rows[:, :, None] & in_columns[:, None, :])
