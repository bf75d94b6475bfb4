"""`metrics.csv`: all folds' epochs in one table, as their `metrics.jsonl` say."""

import csv
from pathlib import Path
from typing import Any

import pytest

from engine.rundir import RunDir
from engine.training.checkpoint import read_metrics, write_metrics
from engine.training.curves import COLUMNS, write_curves
from engine.training.records import EpochLine

FinishedRun = Any  # defined in conftest.py, which cannot be imported


def rows(run: RunDir) -> list[dict[str, str]]:
    with run.curves.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_its_columns_are_the_fold_and_the_fields_of_a_line_but_for_its_end() -> None:
    assert ("fold", *EpochLine.model_fields) == (*COLUMNS, "stopped_early")


def test_a_run_leaves_every_epoch_of_every_fold(finished_run: FinishedRun) -> None:
    run, found = finished_run.dir, rows(finished_run.dir)
    assert [(row["fold"], row["epoch"]) for row in found] == [
        *(("0", "1"), ("0", "2"), ("1", "1"), ("1", "2"))
    ]
    for row in found:
        line = read_metrics(run.metrics(int(row.pop("fold"))), 2)[int(row["epoch"]) - 1]
        assert {name: float(value) for name, value in row.items()} == line.to_json()


def test_what_was_not_measured_is_empty_and_folds_stand_in_the_order_of_their_numbers(
    tmp_path: Path,
) -> None:
    run = RunDir(tmp_path)
    for fold in (10, 2):
        run.fold(fold).mkdir()
        end = {"stopped_early": True} if fold == 2 else {}
        line = EpochLine(epoch=1, train_s=1.5, validation_s=0.0, **end)
        write_metrics(run.metrics(fold), [line])
    run.fold(3).mkdir()  # begun, no epoch yet
    write_curves(run)
    assert run.curves.read_text(encoding="utf-8").splitlines()[1:] == [
        "2,1,,,,,,,,1.5,0.0",
        "10,1,,,,,,,,1.5,0.0",
    ]


def test_it_is_written_again_as_it_was(copied_run: Any) -> None:
    before = copied_run.curves.read_bytes()
    copied_run.curves.unlink()
    write_curves(copied_run)
    assert copied_run.curves.read_bytes() == before


@pytest.mark.parametrize("line", ['{"epoch": 1', '{"epoch": 1, "other": 2}', "[1]"])
def test_a_damaged_line_is_left_out_and_told_once(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path)
    run.fold(0).mkdir()
    run.metrics(0).write_text(f'{{"epoch": 1}}\n{line}\n{{"epoch": 3}}\n', encoding="utf-8")
    write_curves(run)
    write_curves(run)
    assert [row["epoch"] for row in rows(run)] == ["1", "3"]
    (told,) = caplog.messages
    assert f"{run.metrics(0)} is damaged: line 2: " in told
    assert told.endswith("; metrics.csv leaves it out")
