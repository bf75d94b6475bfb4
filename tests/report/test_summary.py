"""summary.json from counts whose figures are known, and the tables that show it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from engine.report.show import summary_tables
from engine.report.summary import FoldResult, Summary, summarise
from engine.selection.scores import TemperatureChoice, TemperatureScore

CLASSES = ("floor", "wall", "window")

# Fold 0 is perfect on two classes; fold 1 is not, and no fold has a window.
RESULTS = {
    0: FoldResult(np.array([[8, 0, 0], [0, 4, 0], [0, 0, 0]]), 2, 0.4, 6.0, 1.5, 1.5),
    1: FoldResult(np.array([[4, 4, 0], [0, 4, 0], [0, 0, 0]]), 3, 0.2, 2.0, 0.5, 2.0),
}
CHOICE = TemperatureChoice(
    best=1.0,
    index=1,
    chosen_by="oof miou",
    scores=[
        TemperatureScore(temperature=0.7, miou=0.5123, pixel_acc=0.6234),
        TemperatureScore(temperature=1.0, miou=0.7083, pixel_acc=0.8333),
    ],
)


@pytest.fixture
def summary() -> Summary:
    return summarise("key", CLASSES, CHOICE.best, RESULTS, 0.125, 3.0)


def test_the_figures_are_those_of_the_counts_summed_over_folds(summary: Summary) -> None:
    oof = summary.oof
    assert oof.confusion == [[12, 4, 0], [0, 8, 0], [0, 0, 0]]
    assert oof.iou == {"floor": 12 / 16, "wall": 8 / 12, "window": None}
    assert oof.miou == pytest.approx((12 / 16 + 8 / 12) / 2)
    assert oof.pixel_acc == 20 / 24
    assert oof.temperature == 1.0
    assert (summary.key, summary.leakage) == ("key", 0.125)


def test_each_fold_has_its_own_score_and_the_epoch_its_weights_are_from(summary: Summary) -> None:
    assert summary.to_json()["folds"] == [
        {"fold": 0, "miou": 1.0, "best_epoch": 2, "validation_miou": 0.4},
        {"fold": 1, "miou": 0.5, "best_epoch": 3, "validation_miou": 0.2},
    ]


def test_seconds_are_summed_over_folds(summary: Summary) -> None:
    seconds = {"prepare": 3.0, "training": 8.0, "validation": 2.0, "oof": 3.5}
    assert summary.seconds == seconds
    assert list(summary.seconds) == list(seconds)


def test_it_is_json_without_nan_and_without_what_is_not_known_yet(
    summary: Summary, tmp_path: Path
) -> None:
    summary.write(tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == ["key", "oof", "folds", "seconds", "leakage"]
    assert "NaN" not in text
    assert Summary.read(tmp_path / "summary.json") == summary


def test_folds_are_listed_by_number() -> None:
    results = dict.fromkeys((10, 9, 2), RESULTS[0])
    summary = summarise("key", CLASSES, 1.0, results, 0.0, 0.0)
    assert [fold.fold for fold in summary.folds] == [2, 9, 10]


def test_the_tables_show_every_figure(summary: Summary) -> None:
    whole = summary.model_copy(update={"seconds": {**summary.seconds, "total": 185.0}})
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    for table in summary_tables(whole, CHOICE):
        console.print(table)
    shown = " ".join(stream.getvalue().replace("│", " | ").split())  # a title may be broken
    for text in (
        *("OOF mIoU 0.7083, pixel accuracy 0.8333 at T = 1; leakage 12.5%", "0.5123", "0.6234"),
        *("window | - |", "0.7500", "0.6667", "3 min 05 s", "training"),
    ):
        assert text in shown, text
