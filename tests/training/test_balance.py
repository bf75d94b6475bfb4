"""Loss weights by class shares: their formula, and where the pixels are counted."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.frames.decode import read_label
from engine.frames.findings import Findings
from engine.runtime.device import DevicePolicy, choose_operations
from engine.training.balance import balanced, class_pixels
from engine.training.loop import FoldTask, FoldTraining
from engine.training.step import class_weights

CPU = torch.device("cpu")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))

MakeTask = Callable[..., FoldTask]


@pytest.mark.parametrize("balance", [0.25, 0.5, 1.0])
def test_a_class_weighs_by_its_share(balance: float) -> None:
    pixels = [100, 0, 400, 900, 1600]
    found = balanced(torch.ones(5), np.array(pixels), balance).tolist()
    # The median of the four shares lies between the second and the third.
    by_hand = [(650 / n) ** balance if n else 1.0 for n in pixels]
    mean = sum(n * w for n, w in zip(pixels, by_hand, strict=True)) / 3000
    assert found == pytest.approx([w / mean for w in by_hand], rel=1e-6)
    assert sum(n * w for n, w in zip(pixels, found, strict=True)) == pytest.approx(3000)


def test_all_classes_weigh_the_same_in_sum_where_balance_is_1() -> None:
    pixels = np.array([3, 50, 700])
    weighed = balanced(torch.ones(3), pixels, 1.0).numpy() * pixels
    assert weighed == pytest.approx(np.full(3, weighed.mean()), rel=1e-6)


def test_class_weights_are_factors_beside_it() -> None:
    pixels, given = np.array([10, 20, 70]), torch.tensor([2.0, 1.0, 1.0])
    plain, found = (balanced(w, pixels, 0.5) for w in (torch.ones(3), given))
    assert (found / plain)[0] / (found / plain)[1] == pytest.approx(2.0)
    assert float((found.numpy() * pixels).sum()) == pytest.approx(100, rel=1e-6)


def test_without_any_labels_weights_stay() -> None:
    weights = torch.tensor([1.0, 3.0])
    assert torch.equal(balanced(weights, np.zeros(2, np.int64), 0.5), weights)


def test_pixels_are_those_of_the_folds_training_frames(
    make_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(training={"balance": 0.5, "class_weights": {"bed": 2.0}})
    train, classes = task.dataset.train, task.config.data.classes
    counts = [
        np.bincount(read_label(train.samples[n]).ravel(), minlength=256)[: len(classes)]
        for n in task.training
    ]
    expected = np.sum(counts, axis=0)
    found = class_pixels(train.reports, task.training)
    assert found.tolist() == expected.tolist()
    assert class_pixels([*train.reports], task.training).tolist() == expected.tolist()
    with caplog.at_level(logging.INFO, logger="engine"):
        loss = FoldTraining(task, POLICY, blank=True).step.loss
    given = class_weights(task.config.training, classes, CPU)
    assert torch.equal(loss.class_weight_C, balanced(given, expected, 0.5))
    assert "loss weights of classes, by training.balance: bed " in caplog.text


def test_an_odd_frame_counts_too(make_task: MakeTask) -> None:
    # Frames beyond 65,536 pixels a side are no row of the findings.
    reports = make_task().dataset.train.reports
    assert isinstance(reports, Findings)
    rows = reports.rows.copy()
    rows["class_pixels"][3] = 0
    odd = Findings(Path(), reports.frames, rows, odd={3: reports[3]})
    every, others = np.arange(6), np.array([0, 1, 2, 4])
    for frames in (every, others):
        expected = class_pixels(reports, frames).tolist()
        assert class_pixels(odd, frames).tolist() == expected


def test_at_the_default_weights_are_the_configs(make_task: MakeTask) -> None:
    loss = FoldTraining(make_task(), POLICY, blank=True).step.loss
    assert torch.equal(loss.class_weight_C, torch.ones(13))
