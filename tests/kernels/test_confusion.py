"""Confusion matrices against a loop, and the figures read off them against hand counts."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.confusion import class_iou, confusion, mean_iou, pixel_accuracy, probability_confusion
from kernels.confusion.reference import resized_argmax

IGNORE = 255


def by_loop(prediction: Tensor, label: Tensor, classes: int) -> list[list[int]]:
    count = [[0] * classes for _ in range(classes)]
    for truth, guess in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if truth != IGNORE:
            count[truth][guess] += 1
    return count


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 13),
    pixels=st.integers(0, 200),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from([torch.uint8, torch.int64]),
)
def test_it_counts_what_a_loop_counts(
    seed: int, classes: int, pixels: int, ignored: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, classes, (pixels,), generator=generator)
    label = torch.randint(0, classes, (pixels,), generator=generator)
    label[torch.rand(pixels, generator=generator) < ignored] = IGNORE
    count = confusion(prediction.to(dtype), label.to(dtype), classes)
    assert count.dtype == torch.int64
    assert count.tolist() == by_loop(prediction, label, classes)


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    count = confusion(torch.tensor([[2, 2]]), torch.tensor([[0, IGNORE]]), 3)
    assert count.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_counts_add_up_over_batches() -> None:
    generator = torch.Generator().manual_seed(3)
    prediction = torch.randint(0, 5, (4, 6, 7), generator=generator)
    label = torch.randint(0, 5, (4, 6, 7), generator=generator)
    parts = [confusion(prediction[i], label[i], 5) for i in range(4)]
    assert torch.equal(torch.stack(parts).sum(0), confusion(prediction, label, 5))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction \(2, 3\) and label \(3, 2\) must agree"):
        confusion(torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), 4)


@pytest.mark.parametrize("label_hw", [(12, 16), (24, 31), (5, 7)], ids=["same", "up", "down"])
def test_probabilities_are_resized_before_the_argmax(label_hw: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(4)
    prob = torch.rand(2, 4, 12, 16, generator=generator)
    label = torch.randint(0, 4, (2, *label_hw), generator=generator)
    resized = F.interpolate(prob, size=label_hw, mode="bilinear", align_corners=False)
    expected = by_loop(resized.argmax(1), label, 4)
    assert probability_confusion(prob, label).tolist() == expected
    assert resized_argmax(prob, label_hw).shape == label.shape


def test_scaling_probabilities_changes_no_count() -> None:
    generator = torch.Generator().manual_seed(5)
    prob = torch.rand(1, 3, 8, 8, generator=generator)
    label = torch.randint(0, 3, (1, 16, 16), generator=generator)
    # A power of two: exact, so that no near tie can turn.
    assert torch.equal(probability_confusion(8 * prob, label), probability_confusion(prob, label))


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
