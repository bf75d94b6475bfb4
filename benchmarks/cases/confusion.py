"""Confusion matrices of 24 million pixels at once.

Axes: B batch, C class, H W label pixels.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import sklearn.metrics
import torch
import torchmetrics.functional.classification as tm
from torch import Tensor

from benchmarks.figures import Work
from benchmarks.plain import selection
from benchmarks.scene import IGNORE_INDEX, blocky_labels
from benchmarks.timing import Case
from kernels.confusion import confusion, reference

_B, _C, _HW = 79, 13, (480, 640)


def case(device: torch.device) -> Case:
    """Counting; on a GPU without the libraries that have none."""
    label_BHW = blocky_labels((_B, *_HW), _C)
    generator = torch.Generator().manual_seed(1)
    other_BHW = torch.randint(_C, label_BHW.shape, dtype=torch.uint8, generator=generator)
    wrong_BHW = torch.rand(label_BHW.shape, generator=generator) < 0.3
    prediction_BHW = torch.where(wrong_BHW | (label_BHW == IGNORE_INDEX), other_BHW, label_BHW)
    label_BHW, prediction_BHW = label_BHW.to(device), prediction_BHW.to(device)

    both = prediction_BHW, label_BHW
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": partial(confusion, *both, _C),
        "eager": partial(reference.confusion, *both, _C),
        "torchmetrics": partial(
            tm.multiclass_confusion_matrix, *both, num_classes=_C, ignore_index=IGNORE_INDEX
        ),
    }
    if device.type == "cpu":
        sides |= {"bincount": partial(_bincount, *both), "scikit-learn": partial(_sklearn, *both)}
    work = Work(prediction_BHW.nbytes + label_BHW.nbytes, 0)
    return Case("confusion", sides, work, _check, device)


def _bincount(prediction_BHW: Tensor, label_BHW: Tensor) -> Tensor:
    label_N, prediction_N = label_BHW.numpy().ravel(), prediction_BHW.numpy().ravel()
    return torch.from_numpy(selection.confusion(prediction_N, label_N, _C))


def _sklearn(prediction_BHW: Tensor, label_BHW: Tensor) -> Tensor:
    label_N, prediction_N = label_BHW.numpy().ravel(), prediction_BHW.numpy().ravel()
    valid_N = label_N != IGNORE_INDEX
    pairs = label_N[valid_N], prediction_N[valid_N]
    matrix = sklearn.metrics.confusion_matrix(*pairs, labels=np.arange(_C))
    return torch.from_numpy(matrix)


def _check(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours, theirs), f"it counts otherwise: {theirs}, we {ours}"
