"""summary.json from counts whose figures are known, and the tables that show it."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from engine.config import Config
from engine.data.leakage import ContentLeakage
from engine.report.show import summary_tables
from engine.report.summary import Summary, summarise
from engine.rundir import RunDir
from engine.selection.records import TemperatureChoice, TemperatureScore
from engine.training.checkpoint import write_metrics
from engine.training.records import EpochLine
from engine.views.records import FoldState

CLASSES = ("floor", "wall", "window")

# Fold 0 is perfect on two classes; fold 1 is not, and no fold has a window.
COUNTS = [[[8, 0, 0], [0, 4, 0], [0, 0, 0]], [[4, 4, 0], [0, 4, 0], [0, 0, 0]]]
OTHERS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
"""What was counted at the temperature that was not chosen."""

# Of three epochs' mIoU, fold 0 is best in the second and fold 1 in the third.
MIOU = [[0.3, 0.4, 0.1], [0.1, 0.1, 0.2]]
TRAIN_S = [[1.0, 2.0, 3.0], [0.5, 0.5, 1.0]]
VALIDATION_S = [[0.5, 0.5, 0.5], [0.25, 0.25, 0.0]]
OOF_S = [1.5, 2.0]
CHOICE = TemperatureChoice(
    best=1.0,
    index=1,
    chosen_by="oof miou",
    scores=[
        TemperatureScore(temperature=0.7, miou=0.5123, pixel_acc=0.6234),
        TemperatureScore(temperature=1.0, miou=0.7083, pixel_acc=0.8333),
    ],
)


def summary_of(run: RunDir, folds: dict[int, int]) -> Summary:
    """Of a run whose folds, the keys, are like those of the constants, the values."""
    CHOICE.write(run.temperature)
    predicted = {}
    for fold, like in folds.items():
        columns = enumerate(
            zip(MIOU[like], TRAIN_S[like], VALIDATION_S[like], strict=True), start=1
        )
        lines = [
            EpochLine(epoch=epoch, miou=miou, train_s=train_s, validation_s=validation_s)
            for epoch, (miou, train_s, validation_s) in columns
        ]
        # An epoch that the checkpoint does not have behind it counts nothing.
        late = EpochLine(epoch=4, miou=0.9, train_s=100.0, validation_s=100.0)
        write_metrics(run.metrics(fold), [*lines, late])
        predicted[fold] = FoldState(
            weights="", done=1, elapsed_s=OOF_S[like], confusion=[OTHERS, COUNTS[like]]
        )
    data = {"classes": CLASSES, "small_classes": (), "folds": 11}
    config = Config.model_validate({"data": data, "training": {"epochs": 3}})
    return summarise(config, run, "key", predicted, 0.125, 3.0)


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    return summary_of(RunDir(tmp_path / "run"), {0: 0, 1: 1})


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


def test_folds_are_listed_by_number(tmp_path: Path) -> None:
    summary = summary_of(RunDir(tmp_path), dict.fromkeys((10, 9, 2), 0))
    assert [fold.fold for fold in summary.folds] == [2, 9, 10]


def test_the_tables_show_every_figure(summary: Summary) -> None:
    whole = summary.model_copy(update={"seconds": {**summary.seconds, "total": 185.0}})
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    for table in summary_tables(whole, CHOICE):
        console.print(table)
    shown = " ".join(stream.getvalue().replace("│", " | ").split())  # a title may be broken
    for text in (
        "OOF mIoU at label resolution 0.7083, pixel accuracy 0.8333 at T = 1; leakage 12.5%",
        *("0.5123", "0.6234"),
        *("window | - |", "0.7500", "0.6667", "3 min 05 s", "training"),
    ):
        assert text in shown, text


def test_leakage_by_content_is_shown_and_what_was_not_measured_is_said(summary: Summary) -> None:
    content = ContentLeakage(share=0.25, method="pictures", closest=("a", "b"), alike=0.9)
    update = {"leakage_measured": False, "leakage_content": content}
    told, stream = summary.model_copy(update=update), io.StringIO()
    Console(file=stream, width=100).print(summary_tables(told, CHOICE)[0])
    shown = " ".join(stream.getvalue().split())
    assert "leakage not measured" in shown
    assert "leakage by content 25.0 % (pictures; closest: a and b, 0.9)" in shown
    assert Summary.model_validate(told.to_json()) == told
