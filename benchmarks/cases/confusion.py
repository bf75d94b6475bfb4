"""Confusion matrices of 24 million pixels at once.

Axes: B batch, C class, H W label pixels.
"""

from collections.abc import Callable, Iterator
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


def cases(device: torch.device) -> Iterator[Case]:
    """Counting; on a GPU without the libraries that have none."""
    label_BHW = blocky_labels((_B, *_HW), _C)
    generator = torch.Generator().manual_seed(1)
    other_BHW = torch.randint(_C, label_BHW.shape, dtype=torch.uint8, generator=generator)
    wrong_BHW = torch.rand(label_BHW.shape, generator=generator) < 0.3
    prediction_BHW = torch.where(wrong_BHW | (label_BHW == IGNORE_INDEX), other_BHW, label_BHW)
    label_BHW, prediction_BHW = label_BHW.to(device), prediction_BHW.to(device)

    def bincount() -> Tensor:
        label_N, prediction_N = label_BHW.numpy().ravel(), prediction_BHW.numpy().ravel()
        return torch.from_numpy(selection.confusion(prediction_N, label_N, _C))

    def torchmetrics() -> Tensor:
        matrix: Tensor = tm.multiclass_confusion_matrix(
            prediction_BHW, label_BHW, num_classes=_C, ignore_index=IGNORE_INDEX
        )
        return matrix

    def scikit_learn() -> Tensor:
        label_N, prediction_N = label_BHW.numpy().ravel(), prediction_BHW.numpy().ravel()
        valid_N = label_N != IGNORE_INDEX
        matrix = sklearn.metrics.confusion_matrix(
            label_N[valid_N], prediction_N[valid_N], labels=np.arange(_C)
        )
        return torch.from_numpy(matrix)

    rivals: dict[str, Callable[[], Tensor]] = {
        "eager": partial(reference.confusion, prediction_BHW, label_BHW, _C),
        "torchmetrics": torchmetrics,
    }
    if device.type == "cpu":
        rivals |= {"bincount": bincount, "scikit-learn": scikit_learn}
    work = Work(prediction_BHW.nbytes + label_BHW.nbytes, 0, torch.get_num_threads())
    ours = partial(confusion, prediction_BHW, label_BHW, _C)
    yield Case("confusion", ours, rivals, work, _check, device)


def _check(rival: str, ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours, theirs), f"{rival} counts otherwise: {theirs}, we {ours}"
