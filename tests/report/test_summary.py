"""summary.json from counts whose figures are known, and the tables that show it."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from engine.report.summary import summarise, summary_tables

CLASSES = ("floor", "wall", "window")

# Two temperatures; the second is chosen. Fold 0 is perfect on two classes; fold 1 is not, and no
# fold has a window.
PREDICTED: dict[str, dict[str, Any]] = {
    "0": {"elapsed_s": 1.5, "confusion": [[[0] * 3] * 3, [[8, 0, 0], [0, 4, 0], [0, 0, 0]]]},
    "1": {"elapsed_s": 2.0, "confusion": [[[0] * 3] * 3, [[4, 4, 0], [0, 4, 0], [0, 0, 0]]]},
}
CHOICE = {"best": 1.0, "index": 1}
METRICS = {
    0: [
        {"epoch": 1, "train_s": 2.0, "validation_s": 0.5, "miou": 0.3},
        {"epoch": 2, "train_s": 2.0, "validation_s": 0.5, "miou": 0.4},
        {"epoch": 3, "train_s": 2.0, "validation_s": 0.5, "miou": 0.4},
    ],
    1: [
        {"epoch": 1, "train_s": 1.0, "validation_s": 0.25},
        {"epoch": 2, "train_s": 1.0, "validation_s": 0.25, "miou": 0.2},
    ],
}


@pytest.fixture
def summary() -> dict[str, Any]:
    return summarise(CLASSES, PREDICTED, CHOICE, METRICS, 0.125)


def test_the_figures_are_those_of_the_counts_summed_over_folds(summary: dict[str, Any]) -> None:
    oof = summary["oof"]
    assert oof["confusion"] == [[12, 4, 0], [0, 8, 0], [0, 0, 0]]
    assert oof["iou"] == {"floor": 12 / 16, "wall": 8 / 12, "window": None}
    assert oof["miou"] == pytest.approx((12 / 16 + 8 / 12) / 2)
    assert oof["pixel_acc"] == 20 / 24
    assert oof["temperature"] == 1.0
    assert summary["leakage"] == 0.125


def test_each_fold_has_its_own_score_and_the_epoch_its_weights_are_from(
    summary: dict[str, Any],
) -> None:
    assert summary["folds"] == [
        {"fold": 0, "miou": 1.0, "best_epoch": 2, "validation_miou": 0.4},
        {"fold": 1, "miou": 0.5, "best_epoch": 2, "validation_miou": 0.2},
    ]


def test_seconds_are_summed_over_folds_and_epochs(summary: dict[str, Any]) -> None:
    assert summary["seconds"] == {"training": 8.0, "validation": 2.0, "oof": 3.5}


def test_it_is_json_without_nan(summary: dict[str, Any]) -> None:
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_folds_are_listed_by_number_not_by_name() -> None:
    predicted = {str(fold): PREDICTED["0"] for fold in (10, 9, 2)}
    metrics = dict.fromkeys((10, 9, 2), METRICS[0])
    summary = summarise(CLASSES, predicted, CHOICE, metrics, 0.0)
    assert [fold["fold"] for fold in summary["folds"]] == [2, 9, 10]


def test_the_tables_show_every_figure(summary: dict[str, Any]) -> None:
    summary["seconds"]["total"] = 185.0
    scores = [
        {"temperature": 0.7, "miou": 0.5123, "pixel_acc": 0.6234},
        {"temperature": 1.0, "miou": 0.7083, "pixel_acc": 0.8333},
    ]
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    for table in summary_tables(summary, scores):
        console.print(table)
    shown = " ".join(stream.getvalue().replace("│", " | ").split())  # a title may be broken
    for text in (
        *("OOF mIoU 0.7083, pixel accuracy 0.8333 at T = 1; leakage 12.5%", "0.5123", "0.6234"),
        *("window | - |", "0.7500", "0.6667", "3 min 05 s", "training"),
    ):
        assert text in shown, text
