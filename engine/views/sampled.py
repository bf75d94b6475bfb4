"""What probabilities say of a fixed sample of labelled pixels: of the truth, and at most.

Of each frame every `STEP`-th row and column of the label grid, from row and column `STEP` // 2 on:
one pixel in 64. Probabilities are resized to the labels' size as they are for a prediction
(bilinear, half-pixel centres), there only.

Axes: B batch, T temperature, C class, H W pixels of the labels, h w of the probabilities, R S rows
and columns of the sample, N its labelled pixels, K bins of confidence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.views.records import CalibrationCounts

STEP = 8
"""Rows and columns from one sampled pixel to the next. Neighbouring pixels say much the same: 4800
of a frame of 480 x 640 are left, millions of a dataset."""

LEAST = float(np.finfo(np.float32).tiny)
"""What a smaller probability counts as, 1.2e-38, the smallest normal float32: a softmax at a low
temperature may round to 0, whose logarithm is infinite. A pixel costs 87.3 at most."""

LEAST_STORED = 2.0**-25
"""The same for what a store holds: what is smaller becomes 0 in float16. At most 17.3."""

BINS = 15
"""Equal bins of confidence, 0 .. 1/15 to 14/15 .. 1, each with its upper end, as in Guo et al., "On
Calibration of Modern Neural Networks" (ICML 2017)."""


class SampledPixels(NamedTuple):
    """Probabilities at the sampled pixels, on their device; the host does not wait for it."""

    truth_BTRS: Tensor
    """float32, of the pixel's class; 1 where it has none"""
    largest_BTRS: Tensor
    """float32, of the class of the largest: the confidence of the prediction"""
    labelled_BRS: Tensor
    """bool"""


def sample_pixels(prob_BTChw: Tensor, label_BHW: Tensor) -> SampledPixels:
    """Read the sample of each frame.

    Args:
        prob_BTChw: (B, T, C, h, w) float32, of any layout; over C they sum to 1.
        label_BHW: (B, H, W) uint8 on the same device, 255 = unlabelled.
    """
    row_R, column_S = sample_grid(label_BHW)
    label_BRS = label_BHW[:, row_R[:, None], column_S]
    return read_sample(resized_sample(prob_BTChw, label_BHW), label_BRS)


def sample_grid(label_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) rows and (S,) columns of the sample, at least one of each, on the labels' device."""
    rows, columns = (
        torch.arange(min(STEP // 2, size - 1), size, STEP, device=label_BHW.device)
        for size in label_BHW.shape[1:]
    )
    return rows, columns


def resized_sample(prob_BTChw: Tensor, label_BHW: Tensor) -> Tensor:
    """(B, T, C, R, S), what `F.interpolate` to the labels' size gives there, up to rounding."""
    (height, width), (tall, wide) = prob_BTChw.shape[3:], label_BHW.shape[1:]
    row_R, column_S = sample_grid(label_BHW)
    # Classes last, as a CPU's sum lies: there a pixel is read at once, as a row of a table, a third
    # of the time of `index_select`. Of a GPU's, whose classes lie apart, a table would be a copy.
    prob_TBhwC = prob_BTChw.permute(1, 0, 3, 4, 2)
    first_TB11 = torch.arange(prob_TBhwC.shape[:2].numel(), device=prob_BTChw.device)
    first_TB11 = first_TB11.view(*prob_TBhwC.shape[:2], 1, 1) * (height * width)

    def at(row_R: Tensor, column_S: Tensor) -> Tensor:
        index_RS = row_R[:, None] * width + column_S
        if prob_BTChw.is_cuda:
            pixels = prob_TBhwC.flatten(2, 3).index_select(2, index_RS.flatten())
            return pixels.view(*first_TB11.shape[:2], *index_RS.shape, -1)
        return F.embedding(first_TB11 + index_RS, prob_TBhwC.reshape(-1, prob_TBhwC.shape[4]))

    if (height, width) == (tall, wide):
        return at(row_R, column_S).permute(1, 0, 4, 2, 3)
    top_R, bottom_R, down_R = _between(row_R, tall, height)
    left_S, right_S, across_S = _between(column_S, wide, width)
    across_S1, down_R11 = across_S[:, None], down_R[:, None, None]
    upper = torch.lerp(at(top_R, left_S), at(top_R, right_S), across_S1)
    lower = torch.lerp(at(bottom_R, left_S), at(bottom_R, right_S), across_S1)
    return torch.lerp(upper, lower, down_R11).permute(1, 0, 4, 2, 3)


def read_sample(prob_BTCRS: Tensor, label_BRS: Tensor) -> SampledPixels:
    """What `sample_pixels` reads, of probabilities and labels at the sampled pixels alone."""
    label_BRS = label_BRS.long()
    labelled_BRS = label_BRS < prob_BTCRS.shape[2]
    index_BTRS = torch.where(labelled_BRS, label_BRS, 0)[:, None].expand(
        -1, prob_BTCRS.shape[1], -1, -1
    )
    truth_BTRS = prob_BTCRS.gather(2, index_BTRS[:, :, None]).squeeze(2)
    truth_BTRS = torch.where(labelled_BRS[:, None], truth_BTRS, 1.0)
    return SampledPixels(truth_BTRS, prob_BTCRS.amax(2), labelled_BRS)


def loss_sum(prob_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """(2,) float64 on the device: the sum of -log p of the sample's labels, and their number.

    The arguments are those of `sample_pixels`, at one temperature.
    """
    pixels = sample_pixels(prob_BChw[:, None], label_BHW)
    loss = -pixels.truth_BTRS.double().clamp(min=LEAST).log().sum()
    return torch.stack((loss, pixels.labelled_BRS.sum().double()))


def _between(wanted: Tensor, size: int, there: int) -> tuple[Tensor, Tensor, Tensor]:
    """Between which of the `there` rows or columns the wanted ones of `size` lie, and how far."""
    at = ((wanted + 0.5) * (there / size) - 0.5).clamp(min=0)
    low = at.long()
    return low, (low + 1).clamp(max=there - 1), at - low


class CalibrationSum:
    """Adds up samples, batch by batch on the CPU: the same batches give the same bytes."""

    def __init__(
        self, temperatures: int, before: CalibrationCounts | None = None, least: float = LEAST
    ) -> None:
        """Go on from `before`, which is of as many temperatures; `least` as `LEAST`."""
        shape = temperatures, BINS
        self._least, self._pixels = least, before.pixels if before else 0
        self._loss_T = np.array(before.loss if before else np.zeros(temperatures))
        self._count_TK = np.array(before.count if before else np.zeros(shape), np.int64)
        self._right_TK = np.array(before.right if before else np.zeros(shape), np.int64)
        self._confidence_TK = np.array(before.confidence if before else np.zeros(shape))

    def add(self, pixels: Sequence[Tensor]) -> None:
        """Add a batch: the parts of `SampledPixels`, on the CPU."""
        truth_BTRS, largest_BTRS, labelled_BRS = (part.numpy() for part in pixels)
        self._pixels += int(np.count_nonzero(labelled_BRS))
        for t in range(len(self._loss_T)):
            truth_N, largest_N = truth_BTRS[:, t][labelled_BRS], largest_BTRS[:, t][labelled_BRS]
            self._loss_T[t] -= np.log(np.maximum(truth_N, self._least, dtype=np.float64)).sum()
            # A sum of rounded probabilities may be a little beyond 1.
            bin_N = np.clip(np.ceil(largest_N * BINS).astype(np.int64) - 1, 0, BINS - 1)
            self._count_TK[t] += _by_bin(bin_N)
            self._right_TK[t] += _by_bin(bin_N[truth_N >= largest_N])
            self._confidence_TK[t] += np.bincount(bin_N, largest_N, BINS)

    def counts(self) -> CalibrationCounts:
        """What has been added so far."""
        return CalibrationCounts(
            pixels=self._pixels,
            loss=self._loss_T.tolist(),
            count=self._count_TK.tolist(),
            right=self._right_TK.tolist(),
            confidence=self._confidence_TK.tolist(),
        )


def _by_bin(bin_N: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(bin_N, minlength=BINS)
