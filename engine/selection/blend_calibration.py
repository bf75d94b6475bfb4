"""The calibration of a blend, measured on its members' stores.

Axes: M models, C class; the others as in `engine.views.sampled`.
"""

import torch
from torch import Tensor

from engine.selection.calibration import Calibration, calibration_of
from engine.selection.pixels import Array, OofPixels
from engine.views.sampled import (
    LEAST_STORED,
    CalibrationSum,
    SampledPixels,
    read_sample,
    resized_sample,
    sample_grid,
)


def blend_calibration(
    pixels: OofPixels, weight_MC: Array, temperature: float | None
) -> Calibration | None:
    """Measure what the weighted sum of the stores says of the sampled pixels.

    Each is resized to the labels' size, weighted and added; the sum is divided by that over the
    classes, which is not 1 where classes have weights of their own, or float16 has rounded.

    Args:
        pixels: all frames, not thinned.
        weight_MC: weight of each class of each model.
        temperature: that of all stores; None where they differ.

    Returns:
        As `calibration_of`.
    """
    weight_MC11 = torch.tensor(weight_MC, dtype=torch.float32)[..., None, None]

    def sample(frame: int) -> SampledPixels:
        label_1HW = torch.from_numpy(pixels.read_label(frame))[None]
        stores = zip(pixels.probabilities(frame), weight_MC11, strict=True)
        parts: list[Tensor] = [
            resized_sample(torch.from_numpy(prob_Chw)[None, None], label_1HW) * weight_C11
            for prob_Chw, weight_C11 in stores
        ]
        blend_11CRS = torch.stack(parts).sum(dim=0)
        row_R, column_S = sample_grid(label_1HW)
        label_1RS = label_1HW[:, row_R[:, None], column_S]
        return read_sample(blend_11CRS / blend_11CRS.sum(dim=2, keepdim=True), label_1RS)

    total = CalibrationSum(1, least=LEAST_STORED)
    for _, found in pixels.each(sample, "calibration"):
        total.add(found)
    return calibration_of([temperature], [total.counts()])
