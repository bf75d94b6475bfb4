"""Loss weights by how rare a class is in the frames that a fold trains on.

C: classes.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.frames.findings import Findings
from engine.frames.kinds import FrameReport

_log = logging.getLogger(__name__)


def class_pixels(reports: Sequence[FrameReport], frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """(C,) labelled pixels of each class in some of the frames that there are reports of."""
    if isinstance(reports, Findings):
        # Those of odd frames are no rows: there they are zeros.
        total_C = reports.rows["class_pixels"][frames].sum(axis=0)
        odd = [reports.odd[n] for n in sorted(reports.odd.keys() & set(frames.tolist()))]
    else:
        total_C, odd = np.zeros(1, np.int64), [reports[n] for n in frames]
    return sum((np.array(r.class_pixels, np.int64) for r in odd if r.class_pixels), total_C)


def balanced(weight_C: Tensor, pixels_C: NDArray[np.int64], balance: float) -> Tensor:
    """(C,) float32 `weight_C` x (median share / share) ** `balance`, of pixel-weighted mean 1.

    Shares and their median are of the classes that have pixels; of others the second factor is 1.

    Source: Eigen and Fergus, "Predicting depth, surface normals and semantic labels with a common
    multi-scale convolutional architecture", ICCV 2015, whose weights are those of `balance` = 1.
    """
    there_C = pixels_C > 0
    if not there_C.any():
        return weight_C
    share_C = pixels_C / pixels_C.sum()
    factor_C = np.ones(len(pixels_C))
    factor_C[there_C] = (np.median(share_C[there_C]) / share_C[there_C]) ** balance
    product_C = weight_C.cpu().double().numpy() * factor_C
    product_C /= (product_C * share_C).sum()
    return torch.from_numpy(product_C).to(weight_C)


def tell(weight_C: Tensor, classes: Sequence[str]) -> None:
    """Log what the classes of a fold weigh."""
    pairs = zip(classes, weight_C.tolist(), strict=True)
    told = ", ".join(f"{name} {weight:.2f}" for name, weight in pairs)
    _log.info("loss weights of classes, by training.balance: %s", told)
