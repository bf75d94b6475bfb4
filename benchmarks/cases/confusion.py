"""Confusion matrices: 24 million pixels at once, and blends of two stores at 64 weights.

Axes: M stores, K candidates, B batch, C class, H W label pixels, h w stored pixels.
"""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import sklearn.metrics
import torch
import torchmetrics.functional.classification as tm
from torch import Tensor

from benchmarks.scene import IGNORE_INDEX, blocky_labels, smooth_probabilities
from benchmarks.timing import Case, Work
from kernels.confusion import blend_confusion, confusion, reference

_C, _LABEL_HW, _STORE_HW = 13, (480, 640), (240, 320)
_COUNT_FRAMES, _BLEND_FRAMES, _CANDIDATES = 79, 8, 64


def cases(device: torch.device) -> Iterator[Case]:
    """Counting, then blending and counting; on a GPU without the libraries that have none."""
    yield _counting(device)
    yield _blending(device)


def _counting(device: torch.device) -> Case:
    label_BHW = blocky_labels((_COUNT_FRAMES, *_LABEL_HW), _C)
    generator = torch.Generator().manual_seed(1)
    other_BHW = torch.randint(_C, label_BHW.shape, dtype=torch.uint8, generator=generator)
    wrong_BHW = torch.rand(label_BHW.shape, generator=generator) < 0.3
    prediction_BHW = torch.where(wrong_BHW | (label_BHW == IGNORE_INDEX), other_BHW, label_BHW)
    label_BHW, prediction_BHW = label_BHW.to(device), prediction_BHW.to(device)

    def bincount() -> Tensor:
        label_N, prediction_N = label_BHW.numpy().ravel(), prediction_BHW.numpy().ravel()
        valid_N = label_N != IGNORE_INDEX
        pair_N = label_N[valid_N].astype(np.int64) * _C + prediction_N[valid_N]
        return torch.from_numpy(np.bincount(pair_N, minlength=_C * _C).reshape(_C, _C))

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
        "eager": lambda: reference.confusion(prediction_BHW, label_BHW, _C),
        "torchmetrics": torchmetrics,
    }
    if device.type == "cpu":
        rivals |= {"bincount": bincount, "scikit-learn": scikit_learn}
    return Case(
        "confusion",
        lambda: confusion(prediction_BHW, label_BHW, _C),
        rivals,
        Work(prediction_BHW.nbytes + label_BHW.nbytes, 0, torch.get_num_threads()),
        _check,
        device,
    )


def _blending(device: torch.device) -> Case:
    label_BHW = blocky_labels((_BLEND_FRAMES, *_LABEL_HW), _C, seed=2).to(device)
    stores_MBChw = [
        smooth_probabilities((_BLEND_FRAMES, _C, *_STORE_HW), seed).half().to(device)
        for seed in (0, 1)
    ]
    second_K = torch.linspace(0.0, 1.0, _CANDIDATES)
    weight_KM = torch.stack([1 - second_K, second_K], dim=1).to(device)

    def plain() -> Tensor:
        label = label_BHW.numpy()
        count_KCC = np.zeros((_CANDIDATES, _C, _C), np.int64)
        for b in range(_BLEND_FRAMES):
            full = [_upsampled(store[b]) for store in stores_MBChw]
            valid_HW = label[b] != IGNORE_INDEX
            for k, (first, second) in enumerate(weight_KM.tolist()):
                winner_HW = np.argmax(first * full[0] + second * full[1], axis=2)
                pair_N = label[b][valid_HW].astype(np.int64) * _C + winner_HW[valid_HW]
                count_KCC[k] += np.bincount(pair_N, minlength=_C * _C).reshape(_C, _C)
        return torch.from_numpy(count_KCC)

    rivals: dict[str, Callable[[], Tensor]] = {
        "one weight": lambda: blend_confusion(stores_MBChw, weight_KM[21:22], label_BHW),
        "eager": lambda: reference.blend_confusion(stores_MBChw, weight_KM, label_BHW),
    }
    if device.type == "cpu":
        rivals["opencv"] = plain
    return Case(
        f"blend and count, {_CANDIDATES} weights",
        lambda: blend_confusion(stores_MBChw, weight_KM, label_BHW),
        rivals,
        # A class of a pixel and store is interpolated along row and column: 6 operations. Where the
        # winner depends on the weights costs more, and how much depends on the probabilities.
        Work(
            sum(store.nbytes for store in stores_MBChw) + label_BHW.nbytes,
            label_BHW.numel() * _C * len(stores_MBChw) * 6,
            torch.get_num_threads(),
        ),
        _check,
        device,
    )


def _upsampled(prob_Chw: Tensor) -> np.ndarray[Any, Any]:
    prob_hwC = np.ascontiguousarray(prob_Chw.float().permute(1, 2, 0).numpy())
    full: np.ndarray[Any, Any] = cv2.resize(
        prob_hwC, _LABEL_HW[::-1], interpolation=cv2.INTER_LINEAR
    )
    return full


def _check(rival: str, ours: Tensor, theirs: Tensor) -> None:
    if len(theirs) < len(ours):
        ours = ours[21:22]
    # Counts are exact; where two classes tie to the last bit, a blend's winner may be either.
    moved = int((ours - theirs).abs().sum()) // 2
    counted = int(theirs.sum())
    assert int(ours.sum()) == counted, f"{rival} counts {counted} pixels, we {int(ours.sum())}"
    allowed = 0 if ours.ndim == 2 else counted // 100_000
    assert moved <= allowed, f"{rival}: {moved} of {counted} pixels differ"
