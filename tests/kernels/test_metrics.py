"""The figures read off a confusion matrix against hand counts."""

import math

import numpy as np
import pytest

from kernels.metrics import class_iou, mean_iou, pixel_accuracy

# Truth 0: 6 of 8 right; truth 1: 3 of 4 right; classes 2 and 3 never occur as truth, 3 is guessed.
COUNT = np.array([[6, 2, 0, 0], [0, 3, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_iou_is_intersection_over_union_and_nan_for_an_absent_class() -> None:
    iou = class_iou(COUNT)
    assert iou[:2].tolist() == [6 / 8, 3 / 6]
    assert math.isnan(iou[2])
    assert iou[3] == 0.0, "guessed but never true"


def test_the_mean_is_over_classes_in_truth_or_prediction() -> None:
    assert mean_iou(COUNT) == pytest.approx((6 / 8 + 3 / 6 + 0) / 3)


def test_pixel_accuracy_is_the_share_of_counted_pixels() -> None:
    assert pixel_accuracy(COUNT) == 9 / 12


def test_an_empty_matrix_scores_0_without_a_warning() -> None:
    empty = np.zeros((3, 3), np.int64)
    assert mean_iou(empty) == 0.0
    assert pixel_accuracy(empty) == 0.0
    assert np.isnan(class_iou(empty)).all()


def test_a_perfect_prediction_scores_1() -> None:
    assert mean_iou(np.diag([5, 1, 0])) == 1.0
    assert pixel_accuracy(np.diag([5, 1, 0])) == 1.0
