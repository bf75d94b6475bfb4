"""`metrics.csv`: the epochs of all folds in one table, made of their `metrics.jsonl`."""

import csv
import functools
import io
import json
import logging
from pathlib import Path

from engine.damage import DamageError
from engine.rundir import RunDir
from engine.whole import write_text

_log = logging.getLogger(__name__)

COLUMNS = (
    "fold",
    "epoch",
    "lr",
    "loss",
    "segmentation_loss",
    "depth_loss",
    "validation_loss",
    "miou",
    "pixel_acc",
    "train_s",
    "validation_s",
)
"""The fold, and the fields of `EpochLine` but for its end; what was not measured is empty."""


def write_curves(run: RunDir) -> None:
    """Write the table of all folds that have metrics, whole or not at all.

    Nothing reads it but people: it has no checksums, and where several processes write it the last
    one wins, with all lines that stood when it read them. A damaged line is left out, and told once
    by a process: whoever needs it refuses it.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for fold, path in _metrics(run):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                row = {"fold": fold, **json.loads(line)}
                row.pop("stopped_early", None)
                table.writerow(row)
            except (ValueError, TypeError) as error:
                _tell_damaged(path, f"line {number}: {error}")
    write_text(run.curves, text.getvalue())


@functools.cache
def _tell_damaged(path: Path, found: str) -> None:
    _log.warning("%s; metrics.csv leaves it out", DamageError(path, found))


def _metrics(run: RunDir) -> list[tuple[int, Path]]:
    """Number and metrics of each fold that has some, ascending."""
    folders = (path for path in run.root.glob("fold*") if path.name[4:].isdecimal())
    found = sorted((int(folder.name[4:]), folder / run.metrics(0).name) for folder in folders)
    return [(fold, path) for fold, path in found if path.is_file()]
