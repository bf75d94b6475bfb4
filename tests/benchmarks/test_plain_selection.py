"""The rival counts, scores and blends as the kernels' references do."""

import numpy as np
import pytest
import torch

from benchmarks.plain.selection import (
    blend_counts,
    confusion,
    grid_weights,
    mean_iou,
    slsqp_weights,
)
from benchmarks.scene import blocky_labels, smooth_probabilities
from kernels.confusion import confusion as counted
from kernels.confusion import reference
from kernels.metrics import mean_iou as scored

_FRAMES, _CLASSES = 3, 5
_STORES = [smooth_probabilities((_FRAMES, _CLASSES, 32, 48), seed).half() for seed in (0, 1, 2)]
_LABELS = blocky_labels((_FRAMES, 64, 96), _CLASSES)


def test_confusion_and_score_equal_the_kernels() -> None:
    prediction = torch.randint(_CLASSES, (64, 96), dtype=torch.uint8)
    ours = counted(prediction, _LABELS[0], _CLASSES).numpy()
    theirs = confusion(prediction.numpy(), _LABELS[0].numpy(), _CLASSES)
    np.testing.assert_array_equal(theirs, ours)
    assert mean_iou(theirs) == pytest.approx(scored(ours))


def test_a_class_that_never_occurs_does_not_count() -> None:
    count = np.zeros((3, 3), np.int64)
    count[0, 0], count[1, 0] = 6, 2
    assert mean_iou(count) == pytest.approx(scored(count)) == pytest.approx(6 / 8 / 2)


@pytest.mark.parametrize("models", [2, 3])
def test_blends_equal_the_kernels_reference(models: int) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(models), 7)
    stores = _STORES[:models]
    theirs = blend_counts([store.numpy() for store in stores], list(_LABELS.numpy()), weights)
    ours = reference.blend_confusion(stores, torch.from_numpy(weights).float(), _LABELS).numpy()
    # Where two classes tie to the last bit, the winner may be either.
    assert np.abs(theirs - ours).sum() <= 2 * 7
    assert theirs.sum() == ours.sum()


def test_the_grid_is_not_below_either_run_and_slsqp_stays_on_the_simplex() -> None:
    stores, labels = [store.numpy() for store in _STORES[:2]], list(_LABELS.numpy())
    single = [mean_iou(blend_counts([store], labels, np.ones((1, 1)))[0]) for store in stores]
    weights, best = grid_weights(stores, labels)
    assert best >= max(single)
    assert weights.sum() == pytest.approx(1)
    found, score = slsqp_weights(stores, labels)
    assert found.sum() == pytest.approx(1)
    assert 0 < score <= best + 0.01
